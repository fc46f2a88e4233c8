/* runlog.h - what a training run measures, on disk as it goes.
 *
 * FOLDER/NAME.jsonl has a line per step, {"step": 12, "time": T, "loss/current": 0.1,
 * ...}, T in seconds since 1970. There may be an event file for TensorBoard with the
 * same numbers (tensorflow/core/util/event.proto, summary.proto, lib/io/record_writer.cc);
 * a resumed run starts a new one, which tells TensorBoard to forget later steps.
 */
#ifndef SDC_ENGINE_RUNLOG_H
#define SDC_ENGINE_RUNLOG_H

#include <stddef.h>
#include <stdint.h>

#include "engine/error.h"

typedef struct {
    const char *tag;               /* "loss/current"; kohya's names */
    double value;
} RunScalar;

typedef struct {
    char *lines, *events;          /* paths; events NULL: none */
} RunLog;

/* Makes the folders. events: where TensorBoard's file goes; NULL: there is none. step: how many steps are done already; lines of later steps, and a
 * line that was cut short, are removed. */
int runlog_open(RunLog *l, const char *dir, const char *name, const char *events, uint32_t step,
                Err *e);
void runlog_close(RunLog *l);      /* zeroed l ok */

/* Adds a step with its numbers; ones that are not finite are left out. */
int runlog_step(RunLog *l, uint32_t step, const RunScalar *s, size_t count, Err *e);

/* CRC-32C (Castagnoli), as record_writer.cc wants it. */
uint32_t runlog_crc(const void *data, size_t size);

#endif
