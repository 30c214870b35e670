/*
 * Starts time steps on the accelerator and reads what they cost.
 *
 * All that is needed of a platform is the address at which the registers are mapped: `sqdm_regs.h`, which
 * `python -m hw.gen` writes beside the Verilog, describes what lies there. Programs and data are in memory that the
 * accelerator reaches by its AXI4 master; addresses here are those that the master puts on the bus. Nothing here
 * allocates, blocks in a system call or handles caches: write back the caches over program and data before
 * sqdm_start(), and invalidate them over the data region before reading results.
 *
 * Registers are accessed by 32-bit words: the generated `sqdm_t` is packed, so on some processors a compiler would read its
 * members byte by byte. It only gives the offsets.
 */
#ifndef SQDM_H
#define SQDM_H

#include <stdbool.h>
#include <stdint.h>

#include "sqdm_regs.h"

/* Numbers of the event counters that every configuration has; those of the arrays follow. */
enum sqdm_counter {
    SQDM_COUNTER_RUN,       /* cycles from start to end */
    SQDM_COUNTER_IDLE,      /* of these, cycles in which no array multiplied */
    SQDM_COUNTER_LAYER,     /* cycles in which a layer ran */
    SQDM_COUNTER_LAYERS,    /* layers begun */
    SQDM_COUNTER_READ,      /* beats read from memory */
    SQDM_COUNTER_WRITTEN    /* beats written to memory */
};

enum sqdm_result {
    SQDM_OK,
    SQDM_NO_DEVICE,         /* there is no accelerator here, or one with other registers */
    SQDM_WRONG_CONFIG,      /* the program is for another configuration */
    SQDM_NOT_READY,         /* something runs */
    SQDM_TIMEOUT,           /* it did not end; sqdm_reset() ends it */
    SQDM_FAILED             /* it ended with an error; sqdm_error() tells which */
};

/* A program, and where it lies in memory. Both bases are multiples of 4 KiB. */
struct sqdm_program {
    uint64_t program_base;
    uint64_t data_base;
    uint32_t program_size;  /* bytes */
    uint32_t data_size;     /* bytes */
    uint32_t count;         /* descriptors */
    uint32_t config_hash;   /* of the configuration that it was made for */
};

/* Why a run ended; `code` is one of SQDM__ERROR__CODE__*. */
struct sqdm_error {
    uint32_t code;
    uint32_t descriptor;    /* index of the descriptor at fault */
    uint64_t address;       /* of the burst, for BUS_READ and BUS_WRITE */
};

/* Looks whether the accelerator is there. */
enum sqdm_result sqdm_probe(volatile uint32_t *registers);

/* Ends whatever runs. Memories, labels and settings stay. Looks at STATUS up to `polls` times. */
enum sqdm_result sqdm_reset(volatile uint32_t *registers, uint32_t polls);

/* Tells the accelerator where a program is; it stays loaded for any number of runs. */
enum sqdm_result sqdm_load(volatile uint32_t *registers, const struct sqdm_program *program);

/* Starts the program for a time step, 0 to 63. */
enum sqdm_result sqdm_start(volatile uint32_t *registers, uint32_t time_step);

/* Waits for the end of the run. Looks at STATUS up to `polls` times. */
enum sqdm_result sqdm_wait(volatile uint32_t *registers, uint32_t polls);

/* Why the last run ended, after SQDM_FAILED. */
struct sqdm_error sqdm_error(volatile uint32_t *registers);

/* A counter; its number is one of sqdm_counter or, of an array, that of `hw.accelerator.counter_events`. */
uint64_t sqdm_counter(volatile uint32_t *registers, uint32_t number);

/* Sets all counters to 0. */
void sqdm_clear_counters(volatile uint32_t *registers);

#endif
