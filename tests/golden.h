/* golden.h - what the two files of the golden tests share (test_golden.c). */
#ifndef SDC_TESTS_GOLDEN_H
#define SDC_TESTS_GOLDEN_H

#include <jansson.h>

#include "engine/error.h"
#include "engine/tensorfile.h"
#include "tests/test.h"

#define GOLDEN_ROOT "tests/golden/"
enum { GOLDEN_NAME = 320 };

/* The largest error so far, of what. */
typedef struct {
    double err;
    char what[GOLDEN_NAME];
} Worst;

void golden_worse(Worst *w, double err, const char *what);
/* Members of a case: "" and 0 when absent. */
const char *golden_text(const json_t *c, const char *key);
double golden_number(const json_t *c, const char *key);
/* A file below GOLDEN_ROOT. */
int golden_open(TensorFile **tf, const char *file, Err *e);
/* Every k-th element as f32, *n of them; NULL with *e set. The caller frees. */
float *golden_read(const TensorFile *tf, const FileTensor *t, size_t k, size_t *n, Err *e);
/* Zeroed memory; there is enough. */
void *golden_memory(size_t bytes);

/* The merged LoRA `out` acts as the case's weighted LoRAs together. */
int golden_merge_lora(const json_t *c, const char *out, Worst *w, Err *e);

#endif
