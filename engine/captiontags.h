/* captiontags.h - the tags of a caption: what stands between commas, or each of its words. */
#ifndef SDC_ENGINE_CAPTIONTAGS_H
#define SDC_ENGINE_CAPTIONTAGS_H

#include <stddef.h>

#include "engine/error.h"

typedef struct {
    char **tag;              /* each once, in order; owned */
    size_t count, cap;
} CaptionTags;

/* words: lower-case words of letters, digits, "-" and "'", everything else divides them; else
 * tags between commas, without blanks around them. ERR_MEMORY. */
int captiontags(CaptionTags *t, const char *caption, int words, Err *e);
void captiontags_free(CaptionTags *t);                     /* zeroed t ok */

#endif
