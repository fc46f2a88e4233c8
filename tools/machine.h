/* machine.h - what subcommands ask about the machine they run on. */
#ifndef SDC_TOOLS_MACHINE_H
#define SDC_TOOLS_MACHINE_H

#include <stddef.h>
#include <stdint.h>

/* The device that the user wants (kernels/dev.h, dev_open): `option` if given, else
 * the environment variable SDC_DEVICE, else "cpu" if SDC_CPU is set, else "auto". The
 * instructions of "cpu" are limited by SDC_CPU ("ref" and so on) if set. Writes to buf
 * and returns it. */
const char *machine_device(char *buf, size_t cap, const char *option);
/* 1 when bf16 is the faster dtype there. */
int machine_fast_bf16(const char *device, int threads);
/* A seed in 0..2^32-1 from the system's randomness. */
int64_t machine_random_seed(void);
/* Seconds of a steady clock. */
double machine_seconds(void);

#endif
