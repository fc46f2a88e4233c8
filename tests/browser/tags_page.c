/* tags_page.c - the page of `sdc tags DIR serve` in a real browser: type, save, look at
 * the caption files. `make browser` (needs chromium); its last line is that of the tests.
 *
 * The browser is driven through its DevTools protocol: JSON messages, each ended by a
 * zero byte, on file descriptors 3 (to it) and 4 (from it).
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/serve.h"

static int passed, failed;

static void check(int ok, const char *what)
{
    if (!ok) printf("FAIL %s\n", what);
    ok ? passed++ : failed++;
}

/* ---- the browser ----------------------------------------------------------- */

typedef struct {
    pid_t pid;
    int to, from, id;
    char *in;                /* bytes received and not yet used */
    size_t size;
} Browser;

static int browser_start(Browser *b, const char *profile)
{
    const char *names[] = {getenv("CHROMIUM"), "chromium", "chromium-browser", "google-chrome"};
    int to[2], from[2];
    char data[600];
    snprintf(data, sizeof data, "--user-data-dir=%s", profile);
    if (pipe(to) || pipe(from)) return 0;
    *b = (Browser){.to = to[1], .from = from[0]};
    b->pid = fork();
    if (!b->pid) {
        int in = fcntl(to[0], F_DUPFD, 10), out = fcntl(from[1], F_DUPFD, 10);
        int null = open("/dev/null", O_RDWR);
        dup2(in, 3), dup2(out, 4), dup2(null, 1), dup2(null, 2);
        for (int i = 0; i < 4; i++)
            if (names[i])
                execlp(names[i], names[i], "--headless=new", "--no-sandbox", "--disable-gpu",
                       "--disable-dev-shm-usage", "--no-first-run", "--window-size=1300,800",
                       "--remote-debugging-pipe", data, "about:blank", (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    return 1;
}

/* The next message, or NULL when none comes within 30 s. */
static json_t *receive(Browser *b)
{
    for (;;) {
        char *end = b->size ? memchr(b->in, 0, b->size) : NULL;
        if (end) {
            json_t *j = json_loads(b->in, 0, NULL);
            b->size -= (size_t)(end + 1 - b->in);
            memmove(b->in, end + 1, b->size);
            return j;
        }
        struct pollfd p = {.fd = b->from, .events = POLLIN};
        b->in = realloc(b->in, b->size + 65536);
        if (!b->in || poll(&p, 1, 30000) != 1) return NULL;
        ssize_t n = read(b->from, b->in + b->size, 65536);
        if (n <= 0) return NULL;
        b->size += (size_t)n;
    }
}

/* Calls a method (params is taken; session NULL: of the browser itself); its result. */
static json_t *call(Browser *b, const char *session, const char *method, json_t *params)
{
    json_t *m = json_pack("{s:i, s:s, s:o}", "id", ++b->id, "method", method, "params", params);
    if (session) json_object_set_new(m, "sessionId", json_string(session));
    char *text = json_dumps(m, JSON_COMPACT);
    json_decref(m);
    int bad = write(b->to, text, strlen(text) + 1) < 0;
    free(text);
    for (json_t *r; !bad && (r = receive(b)); json_decref(r))
        if (json_integer_value(json_object_get(r, "id")) == b->id) {
            json_t *result = json_incref(json_object_get(r, "result"));
            json_decref(r);
            return result;
        }
    return NULL;
}

typedef struct {
    Browser *b;
    char session[100];
} Tab;

static int tab_open(Tab *t, Browser *b, const char *url)
{
    t->b = b;
    json_t *r = call(b, NULL, "Target.createTarget", json_pack("{s:s}", "url", url));
    const char *id = json_string_value(json_object_get(r, "targetId"));
    json_t *a = !id ? NULL : call(b, NULL, "Target.attachToTarget",
                                  json_pack("{s:s, s:b}", "targetId", id, "flatten", 1));
    const char *session = json_string_value(json_object_get(a, "sessionId"));
    snprintf(t->session, sizeof t->session, "%s", session ? session : "");
    json_decref(a);
    json_decref(r);
    return t->session[0] != 0;
}

/* 1 when the expression is true in the page. */
static int is(Tab *t, const char *expression)
{
    json_t *r = call(t->b, t->session, "Runtime.evaluate",
                     json_pack("{s:s, s:b}", "expression", expression, "returnByValue", 1));
    int yes = json_is_true(json_object_get(json_object_get(r, "result"), "value"));
    json_decref(r);
    return yes;
}

static int wait_for(Tab *t, const char *expression)
{
    for (int i = 0; i < 200; i++) {
        if (is(t, expression)) return 1;
        usleep(50000);
    }
    return 0;
}

static void type(Tab *t, const char *text)
{
    json_decref(call(t->b, t->session, "Input.insertText", json_pack("{s:s}", "text", text)));
}

static void key(Tab *t, const char *name, const char *text, int code, int modifiers)
{
    for (int up = 0; up < 2; up++) {
        json_t *p = json_pack("{s:s, s:s, s:i, s:i}", "type", up ? "keyUp" : "keyDown", "key", name,
                              "windowsVirtualKeyCode", code, "modifiers", modifiers);
        if (*text && !up) json_object_set_new(p, "text", json_string(text));
        json_decref(call(t->b, t->session, "Input.dispatchKeyEvent", p));
    }
}
static void enter(Tab *t) { key(t, "Enter", "\r", 13, 0); }

/* ---- the folder ------------------------------------------------------------ */

static char dir[64];

static void put(const char *name, const char *text)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    if (!f) abort();
    fputs(text, f);
    fclose(f);
}

/* 1 as soon as the file holds the text; 0 after ten seconds. */
static int becomes(const char *name, const char *want)
{
    char path[200], text[400] = "";
    snprintf(path, sizeof path, "%s/%s", dir, name);
    for (int i = 0; i < 200; i++) {
        FILE *f = fopen(path, "r");
        size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
        text[n] = 0;
        if (f) fclose(f);
        if (f && !strcmp(text, want)) return 1;
        usleep(50000);
    }
    printf("%s is \"%s\", not \"%s\"\n", name, text, want);
    return 0;
}

/* ---- what a user does ------------------------------------------------------- */

static void edits(Tab *t)
{
    check(wait_for(t, "files.length === 3 && words.length > 0"), "the page lists three pictures");
    check(is(t, "document.activeElement.id === 'type'"), "the keyboard is ready for a tag");
    type(t, "hat"), enter(t);
    check(becomes("a.txt", "cat, red, hat\nsecond line\n"), "a typed tag is saved");
    type(t, "smi"), key(t, "Tab", "", 9, 0), enter(t);
    check(becomes("a.txt", "cat, red, hat, smile\nsecond line\n"), "a completed tag is saved");
    is(t, "(document.querySelectorAll('#chips button')[1].click(), true)");
    check(becomes("a.txt", "cat, hat, smile\nsecond line\n"), "a clicked tag is removed");
    key(t, "Backspace", "", 8, 0);
    check(becomes("a.txt", "cat, hat\nsecond line\n"), "Backspace removes the last tag");
    key(t, "z", "", 90, 2);
    check(becomes("a.txt", "cat, hat, smile\nsecond line\n"), "Ctrl-Z brings it back");
    key(t, "y", "", 89, 2);
    check(becomes("a.txt", "cat, hat\nsecond line\n"), "Ctrl-Y takes it again");
    key(t, "PageDown", "", 34, 0);
    type(t, "<b>x</b>"), enter(t);
    check(becomes("b.txt", "smile, <b>x</b>"), "the next picture, a tag like markup");
    check(is(t, "document.querySelector('#chips b') === null"), "a tag is text, never markup");
}

static void filter(Tab *t)
{
    static const char click[] = "([...document.querySelectorAll('#tags button')]"
                                ".find(b => b.firstChild.textContent === 'cat').click(), true)";
    static const char seen[] = "[...document.querySelectorAll('#grid figure')]"
                               ".filter(f => f.getBoundingClientRect().width > 0).length === %d";
    static const int want[] = {1, 2, 3};
    for (int i = 0; i < 3; i++) {
        char line[300];
        snprintf(line, sizeof line, seen, want[i]);
        is(t, click);
        check(wait_for(t, line), "a tag filters: with it, without it, all");
    }
}

static void conflicts(Tab *t, Browser *b, const char *url)
{
    Tab other;
    check(tab_open(&other, b, url), "a second tab");
    check(wait_for(&other, "files.length === 3 && words.length > 0"), "it lists them too");
    is(t, "(now = 2, draw(), $('type').focus(), true)");
    is(&other, "(now = 2, draw(), $('type').focus(), true)");
    /* both tabs edit before either could have seen the other */
    is(t, "(add('mine'), true)");
    check(becomes("c.txt", "mine"), "the first tab's edit is saved");
    is(&other, "(files[2].disk = files[2].text = null, add('other'), true)");
    check(wait_for(&other, "!$('conflict').classList.contains('hidden')"),
          "the second sees the conflict");
    check(becomes("c.txt", "mine"), "and nothing is overwritten");
    is(&other, "($('both').click(), true)");
    check(becomes("c.txt", "mine, other"), "both edits are kept");
    check(wait_for(t, "files[2].text === 'mine, other'"), "the first tab shows the second's edit");
}

int main(void)
{
    Serve s;
    Browser b;
    Tab t;
    char url[64], profile[100];
    signal(SIGPIPE, SIG_IGN);
    snprintf(dir, sizeof dir, "build/browser.%d", (int)getpid());
    snprintf(profile, sizeof profile, "/tmp/sdc-browser.%d", (int)getpid());
    mkdir(dir, 0777);
    put("a.png", ""), put("b.png", ""), put("c.png", "");
    put("a.txt", "cat, red\nsecond line\n"), put("b.txt", "smile");
    if (!serve_start(&s, dir)) return printf("sdc tags serve does not start\n"), 1;
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", s.port);
    int up = browser_start(&b, profile) && tab_open(&t, &b, url);
    check(up, "chromium starts and opens the page (apt install chromium, or CHROMIUM=...)");
    if (up) edits(&t), filter(&t), conflicts(&t, &b, url);
    kill(b.pid, SIGKILL);
    waitpid(b.pid, NULL, 0);
    serve_stop(&s, SIGTERM);
    char line[300];
    snprintf(line, sizeof line, "rm -rf '%s' '%s'", dir, profile);
    if (system(line)) printf("cannot remove %s\n", dir);
    free(b.in);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
