/*
 * One time step, with what it cost. A driver's main loop would look like run_step().
 *
 * In the tests this runs over a register file in plain memory; on a board, `registers` is the address of the
 * accelerator, for instance from mmap() on a UIO device.
 */
#include <inttypes.h>
#include <stdio.h>

#include "sqdm.h"

#define POLLS 1000000u  /* a time step takes some 10,000 to 1,000,000 cycles */

int run_step(volatile uint32_t *registers, const struct sqdm_program *program, uint32_t time_step);

int run_step(volatile uint32_t *registers, const struct sqdm_program *program, uint32_t time_step)
{
    static const char *const names[] = {"run", "idle", "layer", "layers", "read", "written"};
    enum sqdm_result result = sqdm_probe(registers);

    if (result == SQDM_OK)
        result = sqdm_reset(registers, POLLS);
    if (result == SQDM_OK)
        result = sqdm_load(registers, program);
    if (result == SQDM_OK) {
        sqdm_clear_counters(registers);
        result = sqdm_start(registers, time_step);
    }
    if (result == SQDM_OK)
        result = sqdm_wait(registers, POLLS);
    if (result == SQDM_FAILED) {
        struct sqdm_error error = sqdm_error(registers);

        printf("error %" PRIu32 " at descriptor %" PRIu32 ", address 0x%" PRIx64 "\n", error.code, error.descriptor,
               error.address);
    }
    if (result != SQDM_OK)
        return (int)result;
    for (uint32_t number = 0; number < sizeof names / sizeof *names; number++)
        printf("%-8s%" PRIu64 "\n", names[number], sqdm_counter(registers, number));
    return 0;
}
