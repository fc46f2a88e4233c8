/* cmd_tag.c - `sdc tag DIR`: captions of tags for a folder of pictures.
 *
 * The options are those of kohya's finetune/tag_images_by_wd14_tagger.py, with two
 * differences: characters want 0.85 unless --thresh says otherwise (as the taggers' authors
 * recommend), and what is overwritten can be taken back (sdc tags DIR undo).
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "engine/captiontags.h"
#include "engine/mem.h"
#include "engine/tagpick.h"
#include "engine/tags.h"
#include "models/model.h"
#include "tools/cmd.h"
#include "tools/machine.h"
#include "tools/pocket.h"
#include "tools/progress.h"
#include "tools/stop.h"
#include "tools/tag.h"

#define AT(field) offsetof(TagOptions, field)
#define HEAD(text) {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, text, NULL}
#define TEXT(name, field, arg, help) {name, 0, OPT_TEXT, AT(field), 0, 0, arg, help, NULL}
#define FLAG(name, field, help) {name, 0, OPT_FLAG, AT(field), 0, 0, NULL, help, NULL}
#define THRESHOLD(name, category, help) \
    {name "_threshold", 0, OPT_FLOAT, AT(threshold[category]), 0, 1, "X", help, NULL}
#define NO_DOWNLOAD "nothing is downloaded; name the folder of a tagger with --tagger"

static const Option table[] = {
    TEXT("tagger", tagger, "FILE",
         "model.safetensors of a WD tagger v3 (ViT), or its folder (the pocket model's)"),
    {"dry_run", 'n', OPT_FLAG, AT(dry_run), 0, 0, NULL, "print the tags, write nothing", NULL},
    {"recursive", 'r', OPT_FLAG, AT(recursive), 0, 0, NULL,
     "folders below DIR as well (10_name and the like)", NULL},

    HEAD("Which tags"),
    {"thresh", 0, OPT_FLOAT, AT(thresh), 0, 1, "X",
     "probability that a tag needs (0.35; characters 0.85)", NULL},
    THRESHOLD("general", TAG_GENERAL, "the same, of general tags"),
    THRESHOLD("character", TAG_CHARACTER, "of characters"),
    THRESHOLD("copyright", TAG_COPYRIGHT, "of series, where the list has them"),
    THRESHOLD("artist", TAG_ARTIST, "of artists"),
    THRESHOLD("meta", TAG_META, "of meta tags"),
    TEXT("undesired_tags", undesired, "A,B", "never these"),
    TEXT("tag_replacement", replacement, "A,B;C,D",
         "B instead of A, D instead of C; \\, and \\; for , and ; in a tag"),
    FLAG("remove_underscore", remove_underscore,
         "blanks instead, in tags of more than 3 characters"),
    FLAG("character_tag_expand", character_expand, "name_(series) becomes name, series"),
    FLAG("use_rating_tags", rating, "the rating as the first tag"),
    FLAG("use_rating_tags_as_last_tag", rating_last, "or as the last"),
    FLAG("character_tags_first", character_first, "characters before general tags"),
    TEXT("always_first_tags", first, "A,B",
         "in front, where they are found; the last one first, as in kohya"),

    HEAD("Captions"),
    {"append_tags", 0, OPT_FLAG, AT(append), 0, 0, NULL,
     "behind what a caption has (else it is overwritten)", NULL},
    {"caption_extension", 0, OPT_TEXT, AT(extension), 0, 0, ".EXT", "of caption files (.txt)",
     "caption_extention"},
    TEXT("caption_separator", separator, "TEXT", "between tags (\", \")"),
    FLAG("frequency_tags", frequency, "print how often each tag was found"),
    FLAG("debug", debug, "print each picture's tags with their probabilities"),
    FLAG("compare", compare, "write nothing: measure against the captions that are there"),
    FLAG("words", words, "compare, train: each word of a caption is a tag"),

    HEAD("How it runs"),
    {"batch_size", 0, OPT_INT, AT(batch), 1, 256, "N", "pictures at a time (1; train: 16)", NULL},
    TEXT("interpolation", interpolation, "NAME",
         "bicubic, as the models were trained, or kohya (area, Lanczos)"),
    TEXT("dtype", dtype, "NAME", "f32, bf16 or f16 (f32)"),
    TEXT("device", device, "NAME", DEV_NAMES),
    {"threads", 't', OPT_INT, AT(threads), 0, 1024, "N", "processor threads (all cores)", NULL},

    HEAD("Training a tagger"),
    TEXT("train", train, "OUT",
         "learn the captions of DIR (folders N_words) and write a tagger into this folder"),
    TEXT("init", init, "JSON", "its config.json, with sizes in model_args as timm has them"),
    {"max_train_steps", 0, OPT_INT, AT(steps), 1, 1e9, "N", "steps (1000)", NULL},
    {"learning_rate", 0, OPT_FLOAT, AT(lr), 0, 100, "X", "of AdamW, falling as a cosine (1e-3)",
     NULL},
    {"lr_warmup_steps", 0, OPT_INT, AT(warmup), 0, 1e9, "N", "steps until it is reached (100)",
     NULL},
    {"min_count", 0, OPT_INT, AT(min_count), 1, 1e9, "N", "captions that a tag must be in (1)",
     NULL},
    FLAG("flip_aug", flip, "mirror every second picture"),
    {"seed", 0, OPT_INT64, AT(seed), 0, 0, "N", "(0)", NULL},
    TEXT("save_precision", save_precision, "NAME", "f32, f16 or bf16 (f16)"),
    FLAG("resume", resume, "go on where a stopped training was"),
    {"stop_after_steps", 0, OPT_INT, AT(stop_after), 0, 1e9, "N",
     "stop as if by Ctrl-C after N steps of this session", NULL},

    /* kohya's, not in --help */
    {"repo_id", 0, OPT_REFUSED, 0, 0, 0, "ID", NO_DOWNLOAD, NULL},
    {"model_dir", 0, OPT_REFUSED, 0, 0, 0, "DIR", NO_DOWNLOAD, NULL},
    {"force_download", 0, OPT_REFUSED, 0, 0, 0, "", NO_DOWNLOAD, NULL},
    {"onnx", 0, OPT_IGNORED, 0, 0, 0, "", "the model is read from safetensors", NULL},
    {"max_data_loader_n_workers", 0, OPT_IGNORED, 0, 0, 0, "N",
     "pictures are read as they are needed", NULL},
    {"use_quality_tags", 0, OPT_IGNORED, 0, 0, 0, "", "WD taggers have no such tags", NULL},
    {"use_quality_tags_as_last_tag", 0, OPT_IGNORED, 0, 0, 0, "", "likewise", NULL},
    {"model_threshold", 0, OPT_IGNORED, 0, 0, 0, "X", "likewise", NULL},
    {"pin_memory", 0, OPT_IGNORED, 0, 0, 0, "", "memory is pinned where it helps", NULL},
};

/* ---- one run -------------------------------------------------------------------- */

/* Hits and misses of --compare. */
typedef struct { size_t right, wrong, missed, unknown; } Score;

typedef struct {
    const TagOptions *o;
    Tagger t;
    TagPick pick;
    TagFolder folder;
    size_t *place;             /* (batch) file of each picture of the batch */
    float *prob;               /* (batch, tags) */
    size_t tagged, skipped, overwritten, unsaved;
    Score score;
    char what[64];             /* of the undo file's step */
    Progress progress;
} Run;

static TagPickConfig pick_config(const TagOptions *o)
{
    TagPickConfig c = {.separator = o->separator, .undesired = o->undesired, .first = o->first,
                       .replacement = o->replacement, .remove_underscore = o->remove_underscore,
                       .rating = o->rating, .rating_last = o->rating_last,
                       .character_first = o->character_first,
                       .character_expand = o->character_expand};
    int given = !isnan(o->thresh);
    for (int i = 0; i < TAG_CATEGORIES; i++) {
        double standard = given ? o->thresh : i == TAG_CHARACTER ? 0.85 : 0.35;
        c.threshold[i] = isnan(o->threshold[i]) ? standard : o->threshold[i];
    }
    return c;
}

static int open_tagger(Run *r, Err *e)
{
    const TagOptions *o = r->o;
    static const char own[] = "tagger/model.safetensors";
    ModelOptions dtype = {0};
    char device[64], *dir = NULL, *path = NULL;
    TRY(model_dtype(&dtype, o->dtype ? o->dtype : "f32", e));
    if (dtype.int8)
        return err_set(e, ERR_USAGE, "option --dtype: \"int8\" is not f32, bf16 or f16");
    if (!o->tagger) {
        TRY(pocket_find(&dir, own, "--tagger", e));
        path = mem_printf("%s/%s", dir, own);
        mem_free(dir);
        if (!path) return err_nomem(e, 64, "a path");
    }
    TaggerOptions to = {.path = o->tagger ? o->tagger : path,
                        .threads = o->threads,
                        .dtype = dtype.dtype,
                        .device = machine_device(device, sizeof device, o->device)};
    int rc = tagger_open(&r->t, &to, e);
    mem_free(path);
    if (!rc && !o->tagger)
        fprintf(stderr, "note: this is the pocket model's tagger: %zu words for emoji; --tagger "
                "names another\n", r->t.tags.count);
    return rc;
}

static int open_run(Run *r, const char *dir, Err *e)
{
    const TagOptions *o = r->o;
    size_t batch = (size_t)o->batch;
    TRY(open_tagger(r, e));
    if (o->interpolation && !strcmp(o->interpolation, "kohya")) r->t.input.resize = TAGGER_KOHYA;
    else if (o->interpolation && strcmp(o->interpolation, "bicubic"))
        return err_set(e, ERR_USAGE, "option --interpolation: \"%s\" is not bicubic or kohya",
                       o->interpolation);
    TagPickConfig c = pick_config(o);
    TRY(tagpick_init(&r->pick, &r->t.tags, &c, e));
    TRY(tags_open(&r->folder, dir, o->extension, o->recursive, e));
    r->place = mem_alloc(batch * sizeof *r->place);
    r->prob = mem_alloc(batch * r->t.tags.count * sizeof *r->prob);
    if (!r->place || !r->prob) return err_nomem(e, batch * r->t.tags.count * 4, "a batch");
    TRY(tagger_plan(&r->t, o->batch, e));
    time_t now = time(NULL);
    strftime(r->what, sizeof r->what, "tag of %Y-%m-%d %H:%M:%S", localtime(&now));
    return tagger_load(&r->t, e);
}

static void close_run(Run *r)
{
    tags_close(&r->folder);
    tagpick_free(&r->pick);
    tagger_close(&r->t);
    mem_free(r->place);
    mem_free(r->prob);
}

/* ---- one picture ---------------------------------------------------------------- */

static void print_debug(const Run *r, const TagFile *f, size_t count)
{
    static const char *const kinds[] = {"general", "artist", "", "copyright", "character", "meta",
                                        "", "", "", "rating"};
    fprintf(stderr, "%s:\n", f->picture);
    for (size_t i = 0; i < count; i++)
        fprintf(stderr, "  %5.3f  %-9s  %s\n", (double)r->pick.picked[i].p,
                kinds[r->pick.picked[i].category], r->pick.picked[i].name);
}

/* Tags of the caption that the tagger does not know are counted apart. */
static int compare(Run *r, const TagFile *f, size_t count, Err *e)
{
    CaptionTags want;
    TRY(captiontags(&want, f->before ? f->before : "", r->o->words, e));
    size_t known = 0, right = 0;
    for (size_t k = 0; k < want.count; k++) {
        size_t i = 0;
        while (i < r->t.tags.count && strcmp(r->pick.name[i], want.tag[k])) i++;
        if (i < r->t.tags.count && !r->pick.undesired[i]) known++;
        else r->score.unknown++;
        for (i = 0; i < count; i++) right += !strcmp(r->pick.picked[i].name, want.tag[k]);
    }
    r->score.right += right;
    r->score.wrong += count - right;
    r->score.missed += known - right;
    captiontags_free(&want);
    return 0;
}

static int finish_picture(Run *r, TagFile *f, const float *prob, Err *e)
{
    const TagOptions *o = r->o;
    char *text;
    size_t count = tagpick_run(&r->pick, prob);
    r->tagged++;
    if (o->debug) print_debug(r, f, count);
    if (o->compare) TRY(compare(r, f, count, e));
    TRY(tagpick_caption(&text, &r->pick, count, o->append ? f->before : NULL, e));
    if (o->dry_run || o->compare) {
        printf("%s: %s", f->picture, text);
        mem_free(text);
        return 0;
    }
    r->overwritten += f->before && !o->append;
    tags_put(f, text);
    r->unsaved++;
    return 0;
}

/* ---- all of them ---------------------------------------------------------------- */

enum { SAVE_EVERY = 64 };      /* pictures whose captions are written together */

static int save(Run *r, Err *e)
{
    r->unsaved = 0;
    return tags_save(&r->folder, r->what, e);
}

static int run_batch(Run *r, int count, Err *e)
{
    if (!count) return 0;
    TRY(tagger_run(&r->t, count, r->prob, e));
    for (int i = 0; i < count; i++)
        TRY(finish_picture(r, &r->folder.files[r->place[i]], r->prob + (size_t)i * r->t.tags.count,
                           e));
    return r->unsaved >= SAVE_EVERY ? save(r, e) : 0;
}

/* 1 when the picture is in place i; what cannot be read is named and left out, as kohya's
 * script does. */
static int load(Run *r, int i, const char *path)
{
    Err e = {0};
    Image im = {0};
    int rc = image_load(&im, path, &e);
    if (!rc) rc = tagger_picture(&r->t, i, &im, &e);
    image_free(&im);
    if (rc) fprintf(stderr, "skipped: %s\n", e.msg);
    r->skipped += rc != 0;
    return !rc;
}

static int tag_all(Run *r, Err *e)
{
    int count = 0, quiet = r->o->debug || r->o->dry_run || r->o->compare;
    progress_start(&r->progress, "pictures");
    for (size_t i = 0; i < r->folder.count; i++) {
        int rc = stop_code();
        if (rc) return err_set(e, rc, "stopped after %zu pictures; their captions are written",
                               r->tagged);
        if (load(r, count, r->folder.files[i].picture)) r->place[count++] = i;
        if (count < r->o->batch && i + 1 < r->folder.count) continue;
        TRY(run_batch(r, count, e));
        count = 0;
        if (!quiet) progress_show(&r->progress, i + 1, r->folder.count, "");
    }
    if (!quiet) progress_end(&r->progress);
    if (!r->tagged)
        return err_set(e, ERR_INPUT, "%s: none of its pictures can be read", r->folder.dir);
    return 0;
}

static int print_frequency(const Run *r, Err *e)
{
    size_t *order = mem_alloc((r->t.tags.count + 1) * sizeof *order);
    if (!order) return err_nomem(e, r->t.tags.count * sizeof *order, "the list of tags");
    size_t n = tagpick_frequency(&r->pick, order);
    printf("Tag frequencies:\n");
    for (size_t i = 0; i < n; i++)
        printf("%s: %zu\n", r->pick.name[order[i]], r->pick.seen[order[i]]);
    mem_free(order);
    return 0;
}

static void print_score(const Score *s)
{
    double found = (double)(s->right + s->wrong), wanted = (double)(s->right + s->missed);
    printf("precision %.3f, recall %.3f, F1 %.3f: %zu tags right, %zu wrong, %zu missed; %zu in "
           "captions are unknown to the tagger\n", found > 0 ? (double)s->right / found : 0,
           wanted > 0 ? (double)s->right / wanted : 0,
           found + wanted > 0 ? 2 * (double)s->right / (found + wanted) : 0, s->right, s->wrong,
           s->missed, s->unknown);
}

static int tag_folder(Run *r, const char *dir, Err *e)
{
    const TagOptions *o = r->o;
    TRY(open_run(r, dir, e));
    stop_install();
    int rc = tag_all(r, e);
    if (r->unsaved) {                  /* also of a run that was stopped */
        Err e2 = {0};
        int rs = save(r, &e2);
        if (rs) return *e = e2, rs;
    }
    TRY(rc);
    if (o->frequency) TRY(print_frequency(r, e));
    if (o->compare) print_score(&r->score);
    fprintf(stderr, "%zu pictures%s", r->tagged,
            o->dry_run || o->compare ? ", nothing was written" : " tagged");
    if (r->skipped) fprintf(stderr, ", %zu skipped", r->skipped);
    if (r->overwritten)
        fprintf(stderr, "; %zu captions were overwritten (sdc tags %s undo takes it back, "
                "--append_tags keeps them)", r->overwritten, r->folder.dir);
    fprintf(stderr, "\n");
    return 0;
}

static int run(TagOptions *o, Err *e)
{
    if (o->rest.count != 1)
        return err_set(e, ERR_USAGE, "expected one folder of pictures, as sdc tag DIR; see sdc "
                       "tag --help");
    const char *dir = o->rest.item[0];
    if (o->rating && o->rating_last) o->rating_last = 0;           /* as in kohya */
    if (!o->batch) o->batch = o->train ? 16 : 1;
    if (o->train) return tag_train(o, dir, e);
    Run *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem(e, sizeof *r, "the run");
    r->o = o;
    int rc = tag_folder(r, dir, e);
    close_run(r);
    mem_free(r);
    return rc;
}

int cmd_tag(int argc, char **argv, Err *e)
{
    TagOptions f = {.thresh = NAN, .lr = 1e-3, .steps = 1000, .warmup = 100, .min_count = 1};
    for (int i = 0; i < TAG_CATEGORIES; i++) f.threshold[i] = NAN;
    Options o = {.table = table, .count = sizeof table / sizeof *table, .fields = &f,
                 .command = "sdc tag DIR",
                 .summary = "captions of tags for a folder of pictures", .rest = &f.rest};
    int help = 0, rc = options_parse(&o, argc, argv, &help, e);
    if (!rc && help) options_help(&o, stdout);
    else if (!rc) rc = run(&f, e);
    options_free(&o);
    return rc;
}
