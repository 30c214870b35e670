#include "sqdm.h"

#include <stddef.h>

#define WORD(name) (offsetof(sqdm_t, name) / sizeof(uint32_t))

static void write64(volatile uint32_t *registers, size_t word, uint64_t value)
{
    registers[word] = (uint32_t)value;
    registers[word + 1] = (uint32_t)(value >> 32);
}

/* The low word first: reading it keeps the high one of a counter. */
static uint64_t read64(volatile uint32_t *registers, size_t word)
{
    uint32_t low = registers[word];

    return (uint64_t)registers[word + 1] << 32 | low;
}

enum sqdm_result sqdm_probe(volatile uint32_t *registers)
{
    uint32_t major = (registers[WORD(VERSION)] & SQDM__VERSION__MAJOR_bm) >> SQDM__VERSION__MAJOR_bp;

    if (registers[WORD(ID)] != SQDM__ID__VALUE_reset || major != SQDM__VERSION__MAJOR_reset)
        return SQDM_NO_DEVICE;
    return SQDM_OK;
}

enum sqdm_result sqdm_reset(volatile uint32_t *registers, uint32_t polls)
{
    registers[WORD(CONTROL)] = SQDM__CONTROL__SOFT_RESET_bm;
    while (polls--)
        if (registers[WORD(STATUS)] & SQDM__STATUS__READY_bm)
            return SQDM_OK;
    return SQDM_TIMEOUT;
}

enum sqdm_result sqdm_load(volatile uint32_t *registers, const struct sqdm_program *program)
{
    if (registers[WORD(CONFIG_HASH)] != program->config_hash)
        return SQDM_WRONG_CONFIG;
    if (!(registers[WORD(STATUS)] & SQDM__STATUS__READY_bm))
        return SQDM_NOT_READY;
    write64(registers, WORD(PROGRAM_BASE), program->program_base);
    write64(registers, WORD(DATA_BASE), program->data_base);
    registers[WORD(PROGRAM_SIZE)] = program->program_size;
    registers[WORD(DATA_SIZE)] = program->data_size;
    registers[WORD(PROGRAM_COUNT)] = program->count;
    return SQDM_OK;
}

enum sqdm_result sqdm_start(volatile uint32_t *registers, uint32_t time_step)
{
    if (!(registers[WORD(STATUS)] & SQDM__STATUS__READY_bm))
        return SQDM_NOT_READY;
    registers[WORD(TIME_STEP)] = time_step;
    registers[WORD(CONTROL)] = SQDM__CONTROL__START_bm;
    return SQDM_OK;
}

enum sqdm_result sqdm_wait(volatile uint32_t *registers, uint32_t polls)
{
    while (polls--) {
        uint32_t status = registers[WORD(STATUS)];

        /* READY comes last: after an error, what is under way on the bus is completed first. */
        if (status & SQDM__STATUS__READY_bm)
            return status & SQDM__STATUS__ERROR_bm ? SQDM_FAILED : SQDM_OK;
    }
    return SQDM_TIMEOUT;
}

struct sqdm_error sqdm_error(volatile uint32_t *registers)
{
    uint32_t error = registers[WORD(ERROR)];
    struct sqdm_error result;

    result.code = (error & SQDM__ERROR__CODE_bm) >> SQDM__ERROR__CODE_bp;
    result.descriptor = (error & SQDM__ERROR__DESCRIPTOR_bm) >> SQDM__ERROR__DESCRIPTOR_bp;
    result.address = read64(registers, WORD(ERROR_ADDRESS));
    return result;
}

uint64_t sqdm_counter(volatile uint32_t *registers, uint32_t number)
{
    return read64(registers, WORD(COUNTER) + 2 * (size_t)number);
}

void sqdm_clear_counters(volatile uint32_t *registers)
{
    registers[WORD(CONTROL)] = SQDM__CONTROL__CLEAR_COUNTERS_bm;
}
