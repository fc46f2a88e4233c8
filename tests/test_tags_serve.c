/* test_tags_serve.c - the server behind the tag page, asked by hand: who is answered,
 * saving, conflicts, kill -9. The page itself: tests/browser/tags_page.c. */
#ifdef SDC_MICROHTTPD
#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "tests/serve.h"
#include "tests/test.h"

/* Sends text as it is; the whole answer in out. Returns the status code, or -1. */
static int ask(const Serve *s, const char *text, char *out, size_t cap)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), status = -1;
    size_t n = 0;
    out[0] = 0;
    if (connect(fd, (struct sockaddr *)&at, sizeof at) == 0 &&
        write(fd, text, strlen(text)) == (ssize_t)strlen(text)) {
        for (ssize_t k; n + 1 < cap && (k = read(fd, out + n, cap - 1 - n)) > 0;) n += (size_t)k;
        out[n] = 0;
        if (sscanf(out, "HTTP/1.1 %d", &status) != 1) status = -1;
    }
    close(fd);
    return status;
}

static int get(const Serve *s, const char *path, const char *headers, char *out, size_t cap)
{
    char text[1000];
    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nConnection: close\r\n%s\r\n", path, headers);
    return ask(s, text, out, cap);
}

static int post(const Serve *s, int file, const char *more, const char *body, char *out, size_t cap)
{
    char text[2000];
    snprintf(text, sizeof text, "POST /api/file/%d HTTP/1.1\r\nConnection: close\r\n"
             "Host: 127.0.0.1:%d\r\n%sContent-Length: %zu\r\n\r\n%s", file, s->port, more,
             strlen(body), body);
    return ask(s, text, out, cap);
}

static int file_is(const char *dir, const char *name, const char *want)
{
    char path[600], *text;
    Err e = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (io_read_text(&text, NULL, path, 1000, &e)) return 0;
    int same = !strcmp(text, want);
    mem_free(text);
    return same;
}

static const char *folder(void)
{
    const char *dir = test_dir();
    char path[600];
    Err e = {0};
    static const char *const files[][2] = {{"a.png", "picture"}, {"a.txt", "cat\nmore\n"},
                                           {"b.png", "x"}};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i][0]);
        io_write_file(path, files[i][1], strlen(files[i][1]), &e);
    }
    return dir;
}

TEST(tags_serve_answers_its_own_page_only)
{
    Serve s;
    char out[20000], host[200];
    CHECK(serve_start(&s, folder()));
    snprintf(host, sizeof host, "Host: 127.0.0.1:%d\r\n", s.port);
    int page = get(&s, "/", host, out, sizeof out);
    int files = get(&s, "/api/files", host, out, sizeof out);
    int listed = strstr(out, "\"a.png\"") && strstr(out, "cat\\nmore\\n") && strstr(out, "null");
    int picture = get(&s, "/picture/0", host, out, sizeof out);
    int bytes = strstr(out, "picture") != NULL;
    int none = get(&s, "/picture/2", host, out, sizeof out);
    int odd = get(&s, "/picture/-1", host, out, sizeof out);
    int up = get(&s, "/../etc/passwd", host, out, sizeof out);
    int stranger = get(&s, "/api/files", "Host: example.org\r\n", out, sizeof out);
    int wrong_port = get(&s, "/api/files", "Host: 127.0.0.1:1\r\n", out, sizeof out);
    snprintf(host, sizeof host, "Host: localhost:%d\r\nOrigin: http://example.org\r\n", s.port);
    int origin = get(&s, "/api/files", host, out, sizeof out);
    serve_stop(&s, SIGTERM);
    CHECK_INT(page, 200);
    CHECK_INT(files, 200);
    CHECK(listed);
    CHECK_INT(picture, 200);
    CHECK(bytes);
    CHECK_INT(none, 404);
    CHECK_INT(odd, 404);
    CHECK_INT(up, 404);
    CHECK_INT(stranger, 403);
    CHECK_INT(wrong_port, 403);
    CHECK_INT(origin, 403);
}

TEST(tags_serve_saves_and_sees_conflicts)
{
    static const char us[] = "X-Sdc: 1\r\n";
    Serve s;
    char out[4000];
    const char *dir = folder();
    CHECK(serve_start(&s, dir));
    int plain = post(&s, 0, "", "{\"before\":\"cat\\nmore\\n\",\"text\":\"dog\"}", out, sizeof out);
    int saved = post(&s, 0, us, "{\"before\":\"cat\\nmore\\n\",\"text\":\"dog\"}", out, sizeof out);
    int stale = post(&s, 0, us, "{\"before\":\"cat\\nmore\\n\",\"text\":\"cow\"}", out, sizeof out);
    int theirs = strstr(out, "{\"text\":\"dog\"}") != NULL, dog = file_is(dir, "a.txt", "dog");
    int made = post(&s, 1, us, "{\"before\":null,\"text\":\"new\"}", out, sizeof out);
    int twice = post(&s, 1, us, "{\"before\":null,\"text\":\"newer\"}", out, sizeof out);
    int bad = 0;
    static const char *const bodies[] = {"", "{", "[]", "{\"before\":null}", "{\"text\":\"x\"}",
        "{\"before\":1,\"text\":\"x\"}", "{\"before\":null,\"text\":\"a\\u0000b\"}",
        "{\"before\":null,\"text\":\"\xff\"}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        bad += post(&s, 0, us, bodies[i], out, sizeof out) == 400;
    int beyond = post(&s, 2, us, "{\"before\":null,\"text\":\"x\"}", out, sizeof out);
    serve_stop(&s, SIGKILL);
    CHECK_INT(plain, 403);
    CHECK_INT(saved, 200);
    CHECK_INT(stale, 409);
    CHECK(theirs && dog);
    CHECK_INT(made, 200);
    CHECK_INT(twice, 409);
    CHECK_INT(bad, sizeof bodies / sizeof *bodies);
    CHECK_INT(beyond, 404);
    CHECK(file_is(dir, "a.txt", "dog") && file_is(dir, "b.txt", "new"));
}

/* Killed at any moment while it saves, the caption is one of the texts, whole. */
TEST(tags_serve_kill_loses_nothing)
{
    const char *dir = folder();
    for (int round = 0; round < 5; round++) {
        Serve s;
        char out[4000], body[200], last[40] = "";
        CHECK(serve_start(&s, dir));
        pid_t killer = fork();
        if (!killer) {
            usleep(3000 + 7000u * (unsigned)round);
            kill(s.pid, SIGKILL);
            _exit(0);
        }
        char *now;
        Err e = {0};
        char path[600];
        snprintf(path, sizeof path, "%s/a.txt", dir);
        CHECK_OK(io_read_text(&now, NULL, path, 1000, &e), &e);
        snprintf(last, sizeof last, "%s", round ? now : "");
        snprintf(body, sizeof body, "{\"before\":\"%s\",\"text\":\"%d.0\"}",
                 round ? now : "cat\\nmore\\n", round);
        mem_free(now);
        int n = 0;
        while (post(&s, 0, "X-Sdc: 1\r\n", body, out, sizeof out) == 200) {
            snprintf(last, sizeof last, "%d.%d", round, n);
            snprintf(body, sizeof body, "{\"before\":\"%d.%d\",\"text\":\"%d.%d\"}", round, n,
                     round, n + 1);
            n++;
        }
        waitpid(killer, NULL, 0);
        serve_stop(&s, SIGKILL);
        char next[40];
        snprintf(next, sizeof next, "%d.%d", round, n);
        CHECK(file_is(dir, "a.txt", last) || file_is(dir, "a.txt", next) ||
              (!n && !round && file_is(dir, "a.txt", "cat\nmore\n")));
    }
}
#endif
