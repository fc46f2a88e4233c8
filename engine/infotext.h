/* infotext.h - the `parameters` text that A1111 stores in its pictures.
 *
 *     a cat, <lora:fluffy:0.7>
 *     Negative prompt: blurry
 *     Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 1, ...
 *
 * Written and read as stable-diffusion-webui 1.10 does (modules/processing.py
 * create_infotext, modules/infotext_utils.py parse_generation_parameters), so
 * that pictures move freely between the programs. Text is UTF-8 and hostile.
 */
#ifndef SDC_ENGINE_INFOTEXT_H
#define SDC_ENGINE_INFOTEXT_H

#include <stddef.h>

#include "engine/error.h"

typedef struct {
    char *key, *value;
} InfotextField;

/* Everything is owned; a zeroed Infotext is empty. prompt and negative may be
 * NULL when building; after infotext_parse they are not. */
typedef struct {
    char *prompt, *negative;
    InfotextField *fields;       /* in order, keys unique */
    size_t count, cap;
} Infotext;

void infotext_free(Infotext *t);

/* Sets the two prompts / a field (appended, or replaced where it stands).
 * Copies. ERR_MEMORY. */
int infotext_set_prompt(Infotext *t, const char *prompt, const char *negative, Err *e);
int infotext_set(Infotext *t, const char *key, const char *value, Err *e);
/* The value as Python prints it: 7, 7.5, 0.35; integers without ".0", as the
 * web UI has them. */
int infotext_set_number(Infotext *t, const char *key, double value, Err *e);

/* NULL when absent. */
const char *infotext_get(const Infotext *t, const char *key);
/* 1 and the two numbers of a field like "Size: 512x768" (1..65535), else 0. */
int infotext_get_pair(const Infotext *t, const char *key, int *a, int *b);

/* One "name: hash" of a list such as "Lora hashes": advances *list (start with
 * the field's value) and returns 1 with the spans, or 0 at the end. Items
 * without a colon are passed over. */
int infotext_next_hash(const char **list, const char **name, size_t *name_size,
                       const char **hash, size_t *hash_size);

/* The text (mem_free). Fields come in A1111's order whatever the order in which
 * they were set; fields it has no place for stand before Version, as set.
 * Values with a comma, colon or newline are JSON strings. ERR_MEMORY. */
int infotext_format(char **text, const Infotext *t, Err *e);

/* Reads `size` bytes, at most INFOTEXT_MAX; fills *t, to be freed. Where the
 * last line has fewer than three fields it belongs to the prompt. A sampler
 * named as before version 1.9, "DPM++ 2M Karras", becomes "Sampler: DPM++ 2M"
 * and "Schedule type: Karras". Unlike A1111, "Size" stays whole (see
 * infotext_get_pair) and nothing absent is filled in: no "Clip skip" means 1.
 * ERR_INPUT when it is too long or has more than 1000 fields; ERR_MEMORY. */
enum { INFOTEXT_MAX = 1 << 20 };
int infotext_parse(Infotext *t, const char *text, size_t size, Err *e);

#endif
