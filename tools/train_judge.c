/* train_judge.c - see train_judge.h. */
#include "tools/train_judge.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "engine/captiontags.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "models/tagger.h"
#include "tokenizer/prompt.h"
#include "tools/train_samples.h"

/* ---- tags of a prompt ------------------------------------------------------------ */

static int same_tag(const char *name, const char *text)
{
    for (; *name && *text; name++, text++) {
        int a = *name == '_' ? ' ' : tolower((unsigned char)*name);
        if (a != (*text == '_' ? ' ' : tolower((unsigned char)*text))) return 0;
    }
    return !*name && !*text;
}

/* Adds the tag of that name to prompt i. 0: the tagger does not know it. */
static int add(TrainJudge *j, size_t i, const TagList *tags, const char *text)
{
    size_t k = 0;
    while (k < tags->count && (tags->list[k].category == TAG_RATING ||
                               !same_tag(tags->list[k].name, text))) k++;
    if (k == tags->count) return 0;
    for (size_t n = 0; n < j->want_count[i]; n++)
        if (j->want[i][n] == k) return 1;
    j->want[i][j->want_count[i]++] = k;
    j->known++;
    return 1;
}

/* The prompt without weights, networks and what is not to be seen; NULL: no memory. */
static char *plain_text(const Prompt *p)
{
    char *all = mem_strdup("");
    for (size_t i = 0; all && i < p->piece_count; i++) {
        const PromptPiece *piece = &p->pieces[i];
        char *more = piece->weight > 0
                         ? mem_printf("%s%.*s", all, (int)piece->len, piece->text)
                         : mem_printf("%s,", all);
        mem_free(all);
        all = more;
    }
    return all;
}

/* Words between blanks, or what punctuation divides them into. */
static int add_words(TrainJudge *j, size_t i, const TagList *tags, char *text, Err *e)
{
    char *rest = text, *word;
    int rc = 0;
    while (!rc && (word = strsep(&rest, " \t\r\n"))) {
        CaptionTags parts = {0};
        if (!*word || add(j, i, tags, word)) continue;
        rc = captiontags(&parts, word, 1, e);
        for (size_t k = 0; k < parts.count; k++) add(j, i, tags, parts.tag[k]);
        captiontags_free(&parts);
    }
    return rc;
}

static int tags_of_prompt(TrainJudge *j, size_t i, const TagList *tags, const char *text, Err *e)
{
    Prompt p;
    CaptionTags parts = {0};
    TRY(prompt_parse(&p, text, strlen(text), e));
    char *plain = plain_text(&p);
    int rc = plain ? captiontags(&parts, plain, 0, e) : err_nomem(e, strlen(text), "a prompt");
    j->want[i] = rc ? NULL : mem_alloc((strlen(plain) + 1) * sizeof *j->want[i]);
    if (!rc && !j->want[i]) rc = err_nomem(e, strlen(plain), "a prompt");
    for (size_t k = 0; !rc && k < parts.count; k++)
        if (!add(j, i, tags, parts.tag[k])) rc = add_words(j, i, tags, parts.tag[k], e);
    captiontags_free(&parts);
    mem_free(plain);
    prompt_free(&p);
    return rc;
}

/* ---- the tagger ------------------------------------------------------------------ */

/* Planned for a picture at a time. */
static int open_tagger(Tagger *t, const TrainJudge *j, const TrainRun *r, Err *e)
{
    const TaggerOptions o = {.path = j->path, .device = "cpu", .threads = r->o.threads,
                             .dtype = DT_F32};
    TRY(tagger_open(t, &o, e));
    int rc = tagger_plan(t, 1, e);
    if (rc) tagger_close(t);
    return rc;
}

/* *path: NULL when there is none. */
static int find_tagger(char **path, const TrainOptions *o, Err *e)
{
    const char *slash = o->model ? strrchr(o->model, '/') : NULL;
    *path = NULL;
    if (!o->tagger && !o->model) return 0;
    *path = o->tagger ? mem_strdup(o->tagger)
                      : mem_printf("%.*stagger/model.safetensors",
                                   slash ? (int)(slash + 1 - o->model) : 0, o->model);
    if (!*path) return err_nomem(e, 64, "a path");
    if (o->tagger || io_exists(*path) == 1) return 0;
    mem_free(*path);
    *path = NULL;
    return 0;
}

static int read_tags(TrainJudge *j, const TrainRun *r, const SamplePrompts *prompts, Err *e)
{
    Tagger t;
    TRY(open_tagger(&t, j, r, e));
    j->bytes = tagger_bytes(&t);
    j->seconds = cost_graph_seconds(&cost_nominal, t.exec.g) * (double)j->prompts;
    int rc = 0;
    for (size_t i = 0; !rc && i < j->prompts; i++)
        rc = tags_of_prompt(j, i, &t.tags, prompts->list[i].text, e);
    tagger_close(&t);
    return rc;
}

int train_judge_open(TrainJudge *j, const TrainRun *r, const SamplePrompts *prompts, Err *e)
{
    *j = (TrainJudge){.prompts = prompts->count};
    TRY(find_tagger(&j->path, &r->o, e));
    if (!j->path) return 0;
    j->want = mem_calloc(j->prompts, sizeof *j->want);
    j->want_count = mem_calloc(j->prompts, sizeof *j->want_count);
    if (!j->want || !j->want_count) return err_nomem(e, j->prompts * 8, "the prompts");
    TRY(read_tags(j, r, prompts, e));
    if (j->known) return 0;
    if (r->o.tagger)
        fprintf(stderr, "note: --tagger: none of its tags is in the sample prompts\n");
    train_judge_close(j);
    return 0;
}

void train_judge_close(TrainJudge *j)
{
    for (size_t i = 0; j->want && i < j->prompts; i++) mem_free(j->want[i]);
    mem_free(j->want);
    mem_free(j->want_count);
    mem_free(j->path);
    *j = (TrainJudge){0};
}

/* ---- a row of pictures ------------------------------------------------------------ */

static int judge_picture(TrainJudge *j, Tagger *t, size_t i, const char *path, float *prob, Err *e)
{
    Image im = {0};
    TRY(image_load(&im, path, e));
    int rc = tagger_picture(t, 0, &im, e);
    image_free(&im);
    if (!rc) rc = tagger_run(t, 1, prob, e);
    for (size_t k = 0; !rc && k < j->want_count[i]; k++) {
        size_t tag = j->want[i][k];
        /* the thresholds of sdc tag */
        float need = t->tags.list[tag].category == TAG_CHARACTER ? 0.85f : 0.35f;
        j->found += prob[tag] >= need;
    }
    return rc;
}

static int judge(TrainJudge *j, const TrainRun *r, const char *label, Err *e)
{
    Tagger t;
    TRY(open_tagger(&t, j, r, e));
    float *prob = mem_alloc(t.tags.count * sizeof *prob);
    int rc = prob ? tagger_load(&t, e) : err_nomem(e, t.tags.count * sizeof *prob, "tags");
    for (size_t i = 0; !rc && i < j->prompts; i++) {
        if (!j->want_count[i]) continue;
        char *path = train_samples_path(r, label, i);
        rc = path ? judge_picture(j, &t, i, path, prob, e) : err_nomem(e, 64, "a path");
        mem_free(path);
    }
    mem_free(prob);
    tagger_close(&t);
    return rc;
}

int train_judge_row(TrainJudge *j, TrainRun *r, const char *label, Err *e)
{
    Err why = {0};
    if (!j->path) return 0;
    j->found = 0;
    j->rows++;
    train_save_begin(r);
    if (judge(j, r, label, &why)) {
        fprintf(stderr, "note: samples are not judged any more: %s\n", why.msg);
        train_judge_close(j);
    }
    return train_save_end(r, e);
}
