/* fixture.h - a small model and a small data set on disk, for tests of commands. */
#ifndef SDC_TESTS_FIXTURE_H
#define SDC_TESTS_FIXTURE_H

#include "engine/error.h"

/* An SD1.x checkpoint of 32-channel networks with random weights (seed 1) and
 * the real vocabulary, f16, about 8 MB. Written once per test run under
 * build/; returns its path, NULL on failure. */
const char *fixture_model(void);
/* dir/3_cat with four 64x64 pictures and captions. */
int fixture_data(const char *dir, Err *e);
/* All bytes equal? */
int fixture_same_file(const char *a, const char *b);
/* The largest difference of two pictures' pixels, 256 when they cannot be compared. */
int fixture_distance(const char *a, const char *b);

#endif
