/* tags_serve.c - see tags_serve.h. libmicrohttpd's one thread answers all requests, so
 * nothing here needs a lock. */
#include "tools/tags_serve.h"

#ifndef SDC_MICROHTTPD

int tags_serve(const TagFolder *t, const TagsServe *c, Err *e)
{
    (void)t, (void)c;
    return err_set(e, ERR_FAIL, "serve: this sdc was built without libmicrohttpd; install "
                   "libmicrohttpd-dev and run make again");
}

#else

#include <arpa/inet.h>
#include <jansson.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "engine/caption.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tools/stop.h"

enum { BODY_MAX = 1 << 19, WORD_LIST_MAX = 16 << 20, WORDS_MAX = 300000 };

__asm__(".pushsection .rodata\n"
        "sdc_tags_page_begin:\n"
        ".incbin \"tools/tags_page.html\"\n"
        "sdc_tags_page_end:\n"
        ".byte 0\n"
        ".popsection\n");
extern const char sdc_tags_page_begin[], sdc_tags_page_end[];

typedef struct {
    const TagFolder *t;
    json_t *words;
    int port;
} Server;

/* The body of a POST while it arrives. */
typedef struct {
    char *data;
    size_t size;
    int too_long;
} Body;

/* ---- answers ------------------------------------------------------------- */

static enum MHD_Result reply(struct MHD_Connection *c, unsigned status, const char *type,
                            struct MHD_Response *r)
{
    if (!r) return MHD_NO;
    MHD_add_response_header(r, "Content-Type", type);
    MHD_add_response_header(r, "Cache-Control", "no-store");
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(r, "Cross-Origin-Resource-Policy", "same-origin");
    MHD_add_response_header(r, "Content-Security-Policy",
                            "default-src 'none'; img-src 'self'; connect-src 'self'; "
                            "style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                            "frame-ancestors 'none'; base-uri 'none'; form-action 'none'");
    enum MHD_Result rc = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return rc;
}

/* Takes j. */
static enum MHD_Result send_json(struct MHD_Connection *c, unsigned status, json_t *j)
{
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    json_decref(j);
    if (!text) return MHD_NO;
    return reply(c, status, "application/json",
                MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE));
}

static enum MHD_Result refuse(struct MHD_Connection *c, unsigned status, const char *why)
{
    return send_json(c, status, json_pack("{s:s}", "error", why));
}

/* ---- what is asked for ----------------------------------------------------- */

/* The caption's text as it is on disk now: JSON, null when there is none. */
static json_t *text_of(const TagFile *f, Err *e)
{
    char *check, *text;
    if (io_exists(f->path) != 1) return json_null();
    if (caption_read(&check, f->path, e)) return NULL;      /* refuses what is not text */
    mem_free(check);
    if (io_read_text(&text, NULL, f->path, CAPTION_MAX_BYTES, e)) return NULL;
    json_t *j = json_string(text);
    mem_free(text);
    if (!j) err_set(e, ERR_INPUT, "%s: caption is not UTF-8 text", f->path);
    return j;
}

static enum MHD_Result send_files(const Server *s, struct MHD_Connection *c)
{
    json_t *files = json_array();
    for (size_t i = 0; i < s->t->count; i++) {
        const TagFile *f = &s->t->files[i];
        Err e = {0};
        json_t *text = text_of(f, &e);
        if (!text) {
            json_decref(files);
            return refuse(c, MHD_HTTP_INTERNAL_SERVER_ERROR, e.msg);
        }
        json_array_append_new(files, json_pack("{s:s, s:o}", "name",
                                               f->picture + strlen(s->t->dir) + 1, "text", text));
    }
    return send_json(c, MHD_HTTP_OK, json_pack("{s:s, s:o}", "dir", s->t->dir, "files", files));
}

static enum MHD_Result send_picture(const TagFile *f, struct MHD_Connection *c)
{
    static const char *const types[][2] = {{".png", "image/png"}, {".jpg", "image/jpeg"},
        {".jpeg", "image/jpeg"}, {".webp", "image/webp"}, {".bmp", "image/bmp"}};
    const char *type = "application/octet-stream", *dot = strrchr(f->picture, '.');
    for (size_t i = 0; dot && i < sizeof types / sizeof *types; i++)
        if (!strcasecmp(dot, types[i][0])) type = types[i][1];
    IoMap m;
    Err e = {0};
    if (io_map(&m, f->picture, &e)) return refuse(c, MHD_HTTP_NOT_FOUND, e.msg);
    struct MHD_Response *r = MHD_create_response_from_buffer(m.size, (void *)(uintptr_t)m.data,
                                                             MHD_RESPMEM_MUST_COPY);
    io_unmap(&m);
    return reply(c, MHD_HTTP_OK, type, r);
}

static enum MHD_Result save(const TagFile *f, const Body *b, struct MHD_Connection *c)
{
    json_error_t why;
    json_t *j = json_loadb(b->data ? b->data : "", b->size, JSON_REJECT_DUPLICATES, &why);
    json_t *before = json_object_get(j, "before"), *text = json_object_get(j, "text");
    Err e = {0};
    json_t *now = text_of(f, &e);
    enum MHD_Result rc;
    if (!json_is_string(text) || json_string_length(text) > CAPTION_MAX_BYTES ||
        !(json_is_string(before) || json_is_null(before)))
        rc = refuse(c, MHD_HTTP_BAD_REQUEST, "expected {\"before\": text or null, \"text\": text}");
    else if (!now) rc = refuse(c, MHD_HTTP_INTERNAL_SERVER_ERROR, e.msg);
    else if (!json_equal(now, before))
        rc = send_json(c, MHD_HTTP_CONFLICT, json_pack("{s:O}", "text", now));
    else if (io_write_file(f->path, json_string_value(text), json_string_length(text), &e))
        rc = refuse(c, MHD_HTTP_INTERNAL_SERVER_ERROR, e.msg);
    else rc = send_json(c, MHD_HTTP_OK, json_pack("{s:O}", "text", text));
    json_decref(now);
    json_decref(j);
    return rc;
}

/* The file that a url like PREFIX7 means, or NULL. */
static const TagFile *file_of(const Server *s, const char *url, const char *prefix)
{
    char *end;
    size_t n = strlen(prefix);
    if (strncmp(url, prefix, n) || url[n] < '0' || url[n] > '9') return NULL;
    unsigned long i = strtoul(url + n, &end, 10);
    return *end || i >= s->t->count ? NULL : &s->t->files[i];
}

/* ---- requests --------------------------------------------------------------- */

/* "127.0.0.1:PORT" or "localhost:PORT". A page of another site reaches this server
 * by a name of its own at best (DNS rebinding), and says so here. */
static int is_us(const Server *s, const char *host)
{
    char want[2][40];
    snprintf(want[0], sizeof *want, "127.0.0.1:%d", s->port);
    snprintf(want[1], sizeof *want, "localhost:%d", s->port);
    return host && (!strcmp(host, want[0]) || !strcmp(host, want[1]));
}

static const char *header(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

static enum MHD_Result get(const Server *s, struct MHD_Connection *c, const char *url)
{
    const TagFile *f = file_of(s, url, "/picture/");
    if (f) return send_picture(f, c);
    if (!strcmp(url, "/api/files")) return send_files(s, c);
    if (!strcmp(url, "/api/words")) return send_json(c, MHD_HTTP_OK, json_incref(s->words));
    if (strcmp(url, "/")) return refuse(c, MHD_HTTP_NOT_FOUND, "nothing here");
    size_t size = (size_t)((uintptr_t)sdc_tags_page_end - (uintptr_t)sdc_tags_page_begin);
    return reply(c, MHD_HTTP_OK, "text/html; charset=utf-8",
                MHD_create_response_from_buffer(size, (void *)(uintptr_t)sdc_tags_page_begin,
                                                MHD_RESPMEM_PERSISTENT));
}

static enum MHD_Result answer(void *ctx, struct MHD_Connection *c, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **state)
{
    const Server *s = ctx;
    Body *b = *state;
    (void)version;
    if (!b) {
        *state = mem_calloc(1, sizeof *b);
        return *state ? MHD_YES : MHD_NO;
    }
    if (*size) {
        char *more = b->size + *size > BODY_MAX ? NULL : mem_realloc(b->data, b->size + *size);
        if (more) memcpy(more + b->size, data, *size), b->data = more, b->size += *size;
        else b->too_long = 1;
        *size = 0;
        return MHD_YES;
    }
    const char *origin = header(c, "Origin");
    if (!is_us(s, header(c, "Host")) ||
        (origin && (strncmp(origin, "http://", 7) || !is_us(s, origin + 7))))
        return refuse(c, MHD_HTTP_FORBIDDEN, "only this server's own page may ask");
    if (!strcmp(method, "GET")) return get(s, c, url);
    const TagFile *f = file_of(s, url, "/api/file/");
    if (strcmp(method, "POST") || !f) return refuse(c, MHD_HTTP_NOT_FOUND, "nothing here");
    /* a header of our own: other pages would have to ask first, and get no answer */
    if (!header(c, "X-Sdc")) return refuse(c, MHD_HTTP_FORBIDDEN, "the header X-Sdc is missing");
    if (b->too_long) return refuse(c, MHD_HTTP_CONTENT_TOO_LARGE, "too long for a caption");
    return save(f, b, c);
}

static void ended(void *ctx, struct MHD_Connection *c, void **state,
                  enum MHD_RequestTerminationCode how)
{
    Body *b = *state;
    (void)ctx, (void)c, (void)how;
    if (b) mem_free(b->data);
    mem_free(b);
    *state = NULL;
}

/* ---- words ------------------------------------------------------------------ */

/* A line "id,name,category,count" of selected_tags.csv, or just a tag. */
static void add_word(json_t *words, char *line)
{
    char *name = line, *count = NULL, *comma = strchr(line, ',');
    if (comma && strspn(line, "0123456789") == (size_t)(comma - line)) {
        name = comma + 1;
        comma = strchr(name, ',');
        count = comma ? strchr(comma + 1, ',') : NULL;
        if (comma) *comma = 0;
    } else if (!strncmp(line, "tag_id,", 7)) return;
    if (*name)
        json_array_append_new(words, json_pack("[s, I]", name,
                                               (json_int_t)(count ? atoll(count + 1) : 0)));
}

static int read_words(json_t *words, const char *path, Err *e)
{
    char *text, *save_at = NULL;
    TRY(io_read_text(&text, NULL, path, WORD_LIST_MAX, e));
    for (char *l = strtok_r(text, "\r\n", &save_at); l && json_array_size(words) < WORDS_MAX;
         l = strtok_r(NULL, "\r\n", &save_at))
        add_word(words, l);
    mem_free(text);
    return json_array_size(words) ? 0 : err_set(e, ERR_INPUT, "%s: no tags in it", path);
}

/* ------------------------------------------------------------------------------- */

static int start(Server *s, const TagsServe *c, struct MHD_Daemon **d, Err *e)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)c->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    *d = MHD_start_daemon(MHD_USE_AUTO_INTERNAL_THREAD, (uint16_t)c->port, NULL, NULL, answer, s,
                          MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&at, MHD_OPTION_NOTIFY_COMPLETED,
                          ended, NULL, MHD_OPTION_CONNECTION_LIMIT, 64u,
                          MHD_OPTION_CONNECTION_TIMEOUT, 30u, MHD_OPTION_END);
    if (!*d)
        return err_set(e, ERR_USAGE, "--port %d: cannot listen there; is another sdc running? Give "
                       "another port, or 0 for any", c->port);
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(*d, MHD_DAEMON_INFO_BIND_PORT);
    s->port = info ? info->port : c->port;
    return 0;
}

int tags_serve(const TagFolder *t, const TagsServe *c, Err *e)
{
    Server s = {.t = t, .words = json_array()};
    struct MHD_Daemon *d;
    int rc = s.words ? 0 : err_nomem(e, 64, "the list of tags");
    if (!rc && c->tag_list) rc = read_words(s.words, c->tag_list, e);
    if (!rc) rc = start(&s, c, &d, e);
    if (!rc) {
        stop_install();
        printf("http://127.0.0.1:%d/\n", s.port);
        fflush(stdout);
        fprintf(stderr, "open this page to correct the tags of %zu pictures; Ctrl-C ends\n",
                t->count);
        while (!stop_code()) usleep(50000);
        MHD_stop_daemon(d);
    }
    json_decref(s.words);
    return rc;
}

#endif
