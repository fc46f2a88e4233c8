/* tags_serve.h - a page on the loopback interface for correcting tags by hand.
 *
 *   GET  /              the page (tools/tags_page.html)
 *   GET  /api/files     {"dir": D, "files": [{"name": N, "text": TEXT or null}, ...]}
 *   GET  /api/words     [[TAG, COUNT], ...]: what is offered while typing
 *   GET  /picture/I     the bytes of picture I of that list
 *   POST /api/file/I    {"before": TEXT or null, "text": TEXT}: writes a caption when
 *                       the file still says `before`; else 409 {"text": what it says}
 * Texts are whole caption files. Only requests that name this server as Host (and,
 * where there is one, as Origin) are answered, so no other page can reach it.
 */
#ifndef SDC_TOOLS_TAGS_SERVE_H
#define SDC_TOOLS_TAGS_SERVE_H

#include "engine/tags.h"

typedef struct {
    int port;                  /* 0: any free one */
    const char *tag_list;      /* words to offer besides the folder's own: a tagger's
                                  selected_tags.csv, or one tag a line; NULL: none */
} TagsServe;

/* Serves until SIGINT or SIGTERM. ERR_USAGE when the port is taken; ERR_FAIL in builds
 * without libmicrohttpd. */
int tags_serve(const TagFolder *t, const TagsServe *c, Err *e);

#endif
