/* A register file in plain memory, over which the C example runs: a run is over when it is started. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sqdm.h"

int run_step(volatile uint32_t *registers, const struct sqdm_program *program, uint32_t time_step);

/* Arguments: STATUS, ERROR, hash of the program; prints what was written, after what the example prints. */
int main(int count, char **arguments)
{
    static uint32_t words[sizeof(sqdm_t) / sizeof(uint32_t)];
    static sqdm_t file;
    const struct sqdm_program program = {0x123456000u, 0x923457000u, 4096, 8192, 21,
                                         (uint32_t)strtoul(arguments[count - 1], NULL, 0)};
    int result;

    file.ID = SQDM__ID__VALUE_reset;
    file.VERSION = SQDM__VERSION__MAJOR_reset << SQDM__VERSION__MAJOR_bp;
    file.CONFIG_HASH = SQDM__CONFIG_HASH__VALUE_reset;
    file.STATUS = (uint32_t)strtoul(arguments[1], NULL, 0);
    file.ERROR = (uint32_t)strtoul(arguments[2], NULL, 0);
    file.ERROR_ADDRESS = 0x876543210u;
    for (unsigned number = 0; number < 32; number++)
        file.COUNTER[number] = ((uint64_t)number << 32) + 100 + number;
    memcpy(words, &file, sizeof file);      /* words are aligned, the packed structure need not be */
    result = run_step(words, &program, 9);
    memcpy(&file, words, sizeof file);
    printf("result %d control %u step %u count %u sizes %u %u bases %llx %llx\n", result, (unsigned)file.CONTROL,
           (unsigned)file.TIME_STEP, (unsigned)file.PROGRAM_COUNT, (unsigned)file.PROGRAM_SIZE,
           (unsigned)file.DATA_SIZE, (unsigned long long)file.PROGRAM_BASE, (unsigned long long)file.DATA_BASE);
    return 0;
}
