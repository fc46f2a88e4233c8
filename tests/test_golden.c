/* test_golden.c - every case of tests/golden/cases.json is a test: the program is
 * run as a user would, and what it writes is compared with what PyTorch, diffusers,
 * peft and k-diffusion computed (tests/golden/README).
 *
 *   tensors      relative L2 error of each expected tensor
 *   grad         the same, against no less than 1e-4 of the norm of all gradients;
 *                gradients that are zero in exact arithmetic stay below 1e-5 of it
 *   train        losses of every step; the change of the LoRA as one vector
 *   merge_model  the same keys, types and shapes; what no LoRA touches is the same bytes
 *   merge_lora   the merged LoRA at weight 1 acts as the weighted sum; with a rank limit,
 *                nearly as well as the best one of that rank
 *   tokens, parse   exactly
 *   error        exit status 1..125, one line on stderr that says what, no output
 */
#include <stdlib.h>
#include <unistd.h>

#include "tests/golden.h"

enum { TEXT_CAP = 1 << 20 };

typedef struct {
    TestCase test;             /* first: test_running() is this */
    json_t *c;
    char name[96];
} Golden;

void golden_worse(Worst *w, double err, const char *what)
{
    if (isnan(w->err) || err <= w->err) return;     /* a NaN is worse than all */
    w->err = err;
    snprintf(w->what, sizeof w->what, "%s", what);
}

const char *golden_text(const json_t *c, const char *key)
{
    const char *s = json_string_value(json_object_get(c, key));
    return s ? s : "";
}

double golden_number(const json_t *c, const char *key)
{
    return json_number_value(json_object_get(c, key));
}

int golden_open(TensorFile **tf, const char *file, Err *e)
{
    char path[GOLDEN_NAME];
    snprintf(path, sizeof path, GOLDEN_ROOT "%s", file);
    return tensorfile_open(tf, path, e);
}

void *golden_memory(size_t n)
{
    void *p = calloc(n ? n : 1, 1);
    if (!p) perror("memory"), exit(1);
    return p;
}

/* ---- expected against written ---------------------------------------------- */

typedef struct {
    TensorFile *want, *got;
    json_t *shapes;            /* of tensors that the expectation has in part */
} Files;

/* One expected tensor and the same elements of what was written. */
typedef struct {
    char name[GOLDEN_NAME];
    size_t n, every;
    float *got, *want;
} Pair;

static double norm(const float *x, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += (double)x[i] * x[i];
    return sqrt(s);
}

static double distance(const float *a, const float *b, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sqrt(s);
}

/* Every k-th element as f32. */
float *golden_read(const TensorFile *tf, const FileTensor *t, size_t k, size_t *n, Err *e)
{
    float *all = golden_memory((size_t)t->count * sizeof *all);
    *n = ((size_t)t->count + k - 1) / k;
    if (tensorfile_read_f32(tf, t, 0, t->count, all, e)) return free(all), NULL;
    for (size_t i = 0; i < *n; i++) all[i] = all[i * k];
    return all;
}

static void files_close(Files *f)
{
    tensorfile_close(f->want);
    tensorfile_close(f->got);
    json_decref(f->shapes);
}

static int files_open(Files *f, const char *expect, const char *out, Err *e)
{
    TRY(golden_open(&f->want, expect, e));
    const char *shapes = tensorfile_meta(f->want, "shapes");
    f->shapes = json_loads(shapes ? shapes : "{}", 0, NULL);
    if (!f->shapes) return err_set(e, ERR_FAIL, "%s: shapes are not JSON", expect);
    return tensorfile_open(&f->got, out, e);
}

static int same_shape(const Files *f, const char *name, const FileTensor *got,
                      const FileTensor *want)
{
    const json_t *s = json_object_get(f->shapes, name);
    int same = got->ndim == (s ? (int)json_array_size(s) : want->ndim);
    for (int i = 0; same && i < got->ndim; i++)
        same = got->shape[i] ==
               (s ? json_integer_value(json_array_get(s, (size_t)i)) : want->shape[i]);
    return same || (got->count == 1 && want->count == 1);
}

static void pair_free(Pair *p)
{
    free(p->got);
    free(p->want);
}

static int pair_load(Pair *p, const Files *f, size_t i, Err *e)
{
    const FileTensor *want = tensorfile_at(f->want, i);
    snprintf(p->name, sizeof p->name, "%s", want->name);
    char *hash = strchr(p->name, '#');
    p->every = hash ? (size_t)strtoul(hash + 1, NULL, 10) : 1;
    if (hash) *hash = 0;
    const FileTensor *got = tensorfile_find(f->got, p->name);
    if (!got) return err_set(e, ERR_FAIL, "output lacks %s", p->name);
    if (!same_shape(f, p->name, got, want)) return err_set(e, ERR_FAIL, "%s: wrong shape", p->name);
    size_t n;
    p->want = golden_read(f->want, want, 1, &p->n, e);
    p->got = p->want ? golden_read(f->got, got, p->every, &n, e) : NULL;
    if (!p->got) return e->code;
    if (n != p->n) return err_set(e, ERR_FAIL, "%s: %zu elements, not %zu", p->name, n, p->n);
    for (size_t k = 0; k < n; k++)
        if (!isfinite(p->got[k])) return err_set(e, ERR_FAIL, "%s: not finite", p->name);
    return 0;
}

/* What a kind of check makes of each pair. */
typedef int pair_fn(const json_t *c, const Pair *p, void *ctx, Err *e);

static int each_pair(const json_t *c, const char *out, pair_fn *fn, void *ctx, Err *e)
{
    Files f = {0};
    int rc = files_open(&f, golden_text(c, "expect"), out, e);
    for (size_t i = 0; !rc && i < tensorfile_count(f.want); i++) {
        Pair p = {0};
        rc = pair_load(&p, &f, i, e);
        if (!rc) rc = fn(c, &p, ctx, e);
        pair_free(&p);
    }
    files_close(&f);
    return rc;
}

static int relative(const json_t *c, const Pair *p, void *ctx, Err *e)
{
    (void)c, (void)e;
    golden_worse(ctx, distance(p->got, p->want, p->n) / fmax(norm(p->want, p->n), 1e-30), p->name);
    return 0;
}

static int check_tensors(const json_t *c, const char *out, Worst *w, Err *e)
{
    return each_pair(c, out, relative, w, e);
}

/* ---- gradients --------------------------------------------------------------- */

typedef struct {
    double total;              /* norm of all expected gradients */
    Worst *w;
} Grad;

static int grad_total(const json_t *c, const Pair *p, void *ctx, Err *e)
{
    (void)c, (void)e;
    Grad *g = ctx;
    if (strcmp(p->name, "loss")) g->total = hypot(g->total, norm(p->want, p->n));
    return 0;
}

static int grad_pair(const json_t *c, const Pair *p, void *ctx, Err *e)
{
    (void)e;
    Grad *g = ctx;
    int loss = !strcmp(p->name, "loss");
    double n = norm(p->want, p->n), err;
    if (!loss && n < 1e-6 * g->total)
        err = golden_number(c, "tol") * norm(p->got, p->n) / (1e-5 * g->total);
    else
        err = distance(p->got, p->want, p->n) / fmax(n, loss ? 0 : 1e-4 * g->total);
    golden_worse(g->w, err, p->name);
    return 0;
}

static int check_grad(const json_t *c, const char *out, Worst *w, Err *e)
{
    Grad g = {.w = w};
    TRY(each_pair(c, out, grad_total, &g, e));
    return each_pair(c, out, grad_pair, &g, e);
}

/* ---- training ---------------------------------------------------------------- */

typedef struct {
    TensorFile *init;
    double off2, change2;      /* squared: distance from the reference; its change */
    Worst *w;
} Run;

static int train_pair(const json_t *c, const Pair *p, void *ctx, Err *e)
{
    Run *r = ctx;
    if (!strcmp(p->name, "loss")) {
        double err = distance(p->got, p->want, p->n) / norm(p->want, p->n);
        golden_worse(r->w, err / golden_number(c, "loss_tol") * golden_number(c, "tol"), "loss");
        return 0;
    }
    size_t len = strlen(p->name);
    if (len > 6 && !strcmp(p->name + len - 6, ".alpha"))
        return fabsf(p->got[0] - p->want[0]) <= 1e-6f ? 0
                                                      : err_set(e, ERR_FAIL, "%s changed", p->name);
    const FileTensor *t = tensorfile_find(r->init, p->name);
    if (!t) return err_set(e, ERR_FAIL, "%s is not in the initial LoRA", p->name);
    size_t n;
    float *first = golden_read(r->init, t, p->every, &n, e);
    if (!first) return e->code;
    double off = distance(p->got, p->want, p->n), change = distance(p->want, first, p->n);
    free(first);
    r->off2 += off * off;
    r->change2 += change * change;
    return 0;
}

static int check_train(const json_t *c, const char *out, Worst *w, Err *e)
{
    Run r = {.w = w};
    TRY(golden_open(&r.init, golden_text(c, "init"), e));
    int rc = each_pair(c, out, train_pair, &r, e);
    tensorfile_close(r.init);
    golden_worse(w, sqrt(r.off2 / r.change2), "change of the LoRA");
    return rc;
}

/* ---- LoRAs into a model ------------------------------------------------------- */

static int same_bytes(const TensorFile *fa, const FileTensor *a, const TensorFile *fb,
                      const FileTensor *b, Err *e)
{
    void *x = golden_memory(a->bytes), *y = golden_memory(b->bytes);
    int rc = tensorfile_read_raw(fa, a, 0, a->count, x, e);
    if (!rc) rc = tensorfile_read_raw(fb, b, 0, b->count, y, e);
    int same = !rc && !memcmp(x, y, a->bytes);
    free(x);
    free(y);
    return same;
}

/* Is name, whole or in part, in the expectation? */
static int expected(const TensorFile *want, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < tensorfile_count(want); i++) {
        const char *s = tensorfile_at(want, i)->name;
        if (!strncmp(s, name, n) && (!s[n] || s[n] == '#')) return 1;
    }
    return 0;
}

static int compare_base(const TensorFile *base, const Files *f, Err *e)
{
    if (tensorfile_count(base) != tensorfile_count(f->got))
        return err_set(e, ERR_FAIL, "%zu tensors, not %zu", tensorfile_count(f->got),
                       tensorfile_count(base));
    for (size_t i = 0; i < tensorfile_count(base); i++) {
        const FileTensor *b = tensorfile_at(base, i), *g = tensorfile_find(f->got, b->name);
        if (!g) return err_set(e, ERR_FAIL, "output lacks %s", b->name);
        int same = b->dtype == g->dtype && b->ndim == g->ndim;
        for (int k = 0; same && k < b->ndim; k++) same = b->shape[k] == g->shape[k];
        if (!same) return err_set(e, ERR_FAIL, "%s: type or shape changed", b->name);
        if (!expected(f->want, b->name) && !same_bytes(base, b, f->got, g, e))
            return err_set(e, ERR_FAIL, "%s: changed although no LoRA touches it", b->name);
    }
    return 0;
}

static int check_merge_model(const json_t *c, const char *out, Worst *w, Err *e)
{
    TensorFile *base;
    Files f = {0};
    TRY(golden_open(&base, golden_text(c, "base"), e));
    int rc = files_open(&f, golden_text(c, "expect"), out, e);
    if (!rc) rc = compare_base(base, &f, e);
    files_close(&f);
    tensorfile_close(base);
    return rc ? rc : each_pair(c, out, relative, w, e);
}

/* ---- text ---------------------------------------------------------------------- */

/* The lines of a .jsonl file as an array. */
static json_t *read_lines(const char *file)
{
    char path[GOLDEN_NAME], line[1 << 16];
    snprintf(path, sizeof path, GOLDEN_ROOT "%s", file);
    FILE *f = fopen(path, "rb");
    json_t *list = json_array();
    while (f && fgets(line, sizeof line, f)) json_array_append_new(list, json_loads(line, 0, NULL));
    if (f) fclose(f);
    return list;
}

/* ' text' for the shell, quoted; 0 when it does not fit. */
static int add_word(char *cmd, size_t cap, const char *word)
{
    size_t n = strlen(cmd);
    if (n + 4 * strlen(word) + 4 > cap) return 0;
    char *p = cmd + n;
    *p++ = ' ', *p++ = '\'';
    for (; *word; word++) {
        if (*word == '\'') memcpy(p, "'\\'", 3), p += 3;
        *p++ = *word;
    }
    *p++ = '\'', *p = 0;
    return 1;
}

static int check_tokens(const json_t *items, char *out, Err *e)
{
    char path[GOLDEN_NAME], cmd[GOLDEN_NAME + 64] = "tokenize --file";
    snprintf(path, sizeof path, "%s/prompts.txt", test_dir());
    FILE *f = fopen(path, "wb");
    if (!f) return err_set(e, ERR_FAIL, "cannot write %s", path);
    for (size_t i = 0; i < json_array_size(items); i++)
        fprintf(f, "%s\n", golden_text(json_array_get(items, i), "text"));
    fclose(f);
    add_word(cmd, sizeof cmd, path);
    int rc = test_sdc(cmd, out, NULL, TEXT_CAP);
    if (rc) return err_set(e, ERR_FAIL, "exit %d", rc);
    for (size_t i = 0; i < json_array_size(items); i++) {
        const json_t *it = json_array_get(items, i);
        char *end = strchr(out, '\n');
        if (!end) return err_set(e, ERR_FAIL, "%zu lines, not %zu", i, json_array_size(items));
        *end = 0;
        json_t *ids = json_loads(out, 0, NULL);
        int same = json_equal(ids, json_object_get(it, "ids"));
        json_decref(ids);
        if (!same) return err_set(e, ERR_FAIL, "line %zu: %s", i + 1, golden_text(it, "text"));
        out = end + 1;
    }
    return *out ? err_set(e, ERR_FAIL, "more lines than prompts") : 0;
}

static int close_to(const json_t *a, const json_t *b)
{
    double x = json_number_value(a), y = json_number_value(b);
    return json_is_number(a) && fabs(x - y) <= 1e-9 * fmax(1, fabs(y));
}

static int same_parse(const json_t *got, const json_t *want)
{
    const json_t *gc = json_object_get(got, "chunks"), *wc = json_object_get(want, "chunks");
    const json_t *gl = json_object_get(got, "loras"), *wl = json_object_get(want, "loras");
    int same = gc && gl && json_object_size(got) == 2 &&
               json_array_size(gc) == json_array_size(wc) &&
               json_array_size(gl) == json_array_size(wl);
    for (size_t i = 0; same && i < json_array_size(wc); i++) {
        const json_t *g = json_array_get(gc, i), *w = json_array_get(wc, i);
        same = json_equal(json_array_get(g, 0), json_array_get(w, 0)) &&
               close_to(json_array_get(g, 1), json_array_get(w, 1));
    }
    for (size_t i = 0; same && i < json_array_size(wl); i++) {
        const json_t *g = json_array_get(gl, i), *w = json_array_get(wl, i);
        same = !strcmp(golden_text(g, "name"), golden_text(w, "name")) &&
               close_to(json_object_get(g, "te"), json_object_get(w, "te")) &&
               close_to(json_object_get(g, "unet"), json_object_get(w, "unet"));
    }
    return same;
}

static int check_parse(const json_t *items, char *out, Err *e)
{
    for (size_t i = 0; i < json_array_size(items); i++) {
        const json_t *it = json_array_get(items, i);
        char cmd[8000] = "tokenize --parse";
        if (!add_word(cmd, sizeof cmd, golden_text(it, "prompt")))
            return err_set(e, ERR_FAIL, "prompt %zu is too long", i);
        int rc = test_sdc(cmd, out, NULL, TEXT_CAP);
        json_t *got = json_loads(out, 0, NULL);
        int same = !rc && same_parse(got, it);
        json_decref(got);
        if (!same) return err_set(e, ERR_FAIL, "exit %d: %s", rc, golden_text(it, "prompt"));
    }
    return json_array_size(items) ? 0 : err_set(e, ERR_FAIL, "no prompts");
}

/* ---- one case ------------------------------------------------------------------ */

/* The command line, {root} and {out} replaced. */
static int command(char *cmd, size_t cap, const json_t *argv, const char *out)
{
    cmd[0] = 0;
    for (size_t i = 0; i < json_array_size(argv); i++) {
        const char *a = json_string_value(json_array_get(argv, i));
        char word[GOLDEN_NAME];
        if (!strcmp(a, "{out}")) a = out;
        if (!strncmp(a, "{root}/", 7)) {
            snprintf(word, sizeof word, GOLDEN_ROOT "%s", a + 7);
            a = word;
        }
        if (!add_word(cmd, cap, a)) return 0;
    }
    return 1;
}

static int refused(const json_t *c, int rc, const char *err, const char *out, Err *e)
{
    if (rc < 1 || rc > 125) return err_set(e, ERR_FAIL, "exit %d on bad input", rc);
    const char *nl = strchr(err, '\n');
    if (!nl || nl == err || nl[1]) return err_set(e, ERR_FAIL, "not one line on stderr: %s", err);
    const json_t *words = json_object_get(c, "mention");
    int said = !words;
    for (size_t i = 0; i < json_array_size(words); i++)
        said |= strcasestr(err, json_string_value(json_array_get(words, i))) != NULL;
    if (!said) return err_set(e, ERR_FAIL, "the message does not say what is wrong: %s", err);
    return access(out, F_OK) ? 0 : err_set(e, ERR_FAIL, "left an output file");
}

typedef int check_fn(const json_t *c, const char *out, Worst *w, Err *e);

static const struct {
    const char *kind;
    check_fn *check;
} kinds[] = {
    {"tensors", check_tensors}, {"grad", check_grad}, {"train", check_train},
    {"merge_model", check_merge_model}, {"merge_lora", golden_merge_lora},
};

static int run_case(const json_t *c, char *buf, Worst *w, Err *e)
{
    char cmd[8000], out[GOLDEN_NAME], err[4096];
    const char *kind = golden_text(c, "check");
    if (!strcmp(kind, "tokens") || !strcmp(kind, "parse")) {
        json_t *items = read_lines(golden_text(c, "file"));
        int rc = *kind == 't' ? check_tokens(items, buf, e) : check_parse(items, buf, e);
        json_decref(items);
        return rc;
    }
    snprintf(out, sizeof out, "%s/out.safetensors", test_dir());
    if (!command(cmd, sizeof cmd, json_object_get(c, "argv"), out))
        return err_set(e, ERR_FAIL, "the command line is too long");
    int rc = test_sdc(cmd, NULL, err, sizeof err);
    if (!strcmp(kind, "error")) return refused(c, rc, err, out, e);
    if (rc) return err_set(e, ERR_FAIL, "exit %d: %s", rc, err);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kind, kinds[i].kind)) return kinds[i].check(c, out, w, e);
    return err_set(e, ERR_FAIL, "unknown check %s", kind);
}

static void run(void)
{
    const Golden *g = (const Golden *)test_running();
    Worst w = {0};
    Err e = {0};
    char *buf = golden_memory(TEXT_CAP);
    int rc = run_case(g->c, buf, &w, &e);
    free(buf);
    CHECK_OK(rc, &e);
    double tol = golden_number(g->c, "tol");
    if (!(w.err <= tol))
        test_fail(__FILE__, __LINE__, "%s: error %.3g, allowed %.3g", w.what, w.err, tol);
}

static json_t *cases;

__attribute__((constructor)) static void register_cases(void)
{
    cases = json_load_file(GOLDEN_ROOT "cases.json", 0, NULL);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        Golden *g = golden_memory(sizeof *g);
        g->c = json_array_get(cases, i);
        snprintf(g->name, sizeof g->name, "golden/%s", golden_text(g->c, "name"));
        g->test = (TestCase){g->name, run, NULL};
        test_register(&g->test);
    }
}

TEST(golden_cases_are_there)
{
    CHECK(json_array_size(cases) >= 99);
}
