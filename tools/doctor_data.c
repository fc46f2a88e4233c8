/* doctor_data.c - see doctor.h. Everything is said in terms of what training would do
 * with the folder: the data set is opened as `sdc train` opens it. */
#include "tools/doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/data.h"
#include "engine/grid.h"
#include "engine/mem.h"
#include "engine/resize.h"
#include "engine/tags.h"

enum {
    CELL = 160, SHEET_COLS = 8, SHEET_MAX = 400,
    SMALL = 16 * 16 * 3,
    LISTED = 10                /* pictures named per finding */
};
static const double CROP_LOSS = 0.25, ENLARGED = 1.1, UNBALANCED = 4;
static const double ALIKE = 4;     /* of 255: JPEG at quality 30 moves 2.5, another face above 6 */

typedef struct {
    const DataItem *item;
    Image cell;                /* for the sheet */
    uint8_t small[SMALL];
    char sha[HASH_HEX];
    int bad;
} Look;

/* ---- findings -------------------------------------------------------------- */

/* Counts a finding and prints the first few. */
typedef struct {
    const char *name, *advice;
    size_t count;
} Finding;

__attribute__((format(printf, 2, 3)))
static void found(Finding *f, const char *fmt, ...)
{
    if (f->count++ >= LISTED) return;
    va_list ap;
    va_start(ap, fmt);
    printf("%s%s\n    ", f->count == 1 ? "\n" : "", f->count == 1 ? f->name : "");
    vprintf(fmt, ap);
    va_end(ap);
}

static size_t end(const Finding *f)
{
    if (!f->count) return 0;
    if (f->count > LISTED) printf("\n    and %zu more", f->count - LISTED);
    printf("\n    -> %s\n", f->advice);
    return f->count;
}

static const char *name_of(const DataItem *it)
{
    const char *slash = strrchr(it->path, '/');
    return slash ? slash + 1 : it->path;
}

/* ---- looking at each picture ------------------------------------------------ */

/* 16x16 places: what is left of a picture that survives another size or compression. */
static int shrink(uint8_t small[SMALL], const Image *im, Err *e)
{
    Image s;
    TRY(resize_lanczos(&s, im, 16, 16, e));
    memcpy(small, s.px, SMALL);
    image_free(&s);
    return 0;
}

/* Mean difference of two pictures' places, 0 to 255. */
static double distance(const Look *a, const Look *b)
{
    long sum = 0;
    for (int i = 0; i < SMALL; i++) sum += abs(a->small[i] - b->small[i]);
    return (double)sum / SMALL;
}

/* The picture as it is trained on, small, with its name and size below. */
static int make_cell(Look *l, const Image *trained, Err *e)
{
    int room = CELL - 2 * GRID_CHAR_H, w = trained->w, h = trained->h;
    double scale = (double)room / (w > h ? w : h);
    Image small;
    TRY(resize_auto(&small, trained, (int)(w * scale + 0.5), (int)(h * scale + 0.5), e));
    int rc = image_new(&l->cell, CELL, CELL, 3, e);
    if (!rc) {
        memset(l->cell.px, 255, (size_t)CELL * CELL * 3);
        int x0 = (CELL - small.w) / 2;
        for (int y = 0; y < small.h; y++)
            memcpy(l->cell.px + ((size_t)y * CELL + (size_t)x0) * 3,
                   small.px + (size_t)y * (size_t)small.w * 3, (size_t)small.w * 3);
        char size[40];
        const char *name = name_of(l->item);
        size_t fit = CELL / GRID_CHAR_W, n = strlen(name);
        snprintf(size, sizeof size, "%dx%d", w, h);
        grid_text(&l->cell, 0, room, 1, name, n < fit ? n : fit);
        grid_text(&l->cell, 0, room + GRID_CHAR_H, 1, size, strlen(size));
    }
    image_free(&small);
    return rc;
}

static int look(Look *l, const DataItem *item, int cell, Finding *unreadable, Err *e)
{
    Image im;
    Err one = {0};
    l->item = item;
    int rc = dataset_image(&im, item, 0, &one);
    if (!rc) {
        rc = shrink(l->small, &im, &one);
        if (!rc) rc = dataset_item_key(l->sha, item, 0, &one);
        if (!rc && cell) rc = make_cell(l, &im, &one);
        image_free(&im);
    }
    if (rc == ERR_MEMORY) return err_set(e, rc, "%s", one.msg);
    if (rc) found(unreadable, "%s", one.msg);
    l->bad = rc != 0;
    return 0;
}

/* ---- the report ------------------------------------------------------------- */

static size_t report_sizes(const Look *l, size_t n)
{
    Finding small = {"enlarged for training", "find larger originals, or lower --resolution", 0};
    Finding cut = {"loses much to the crop", "crop by hand, so that you decide what is kept", 0};
    for (size_t i = 0; i < n; i++) {
        const DataItem *it = l[i].item;
        double grown = (double)it->fit.rw / it->w;
        if (!l[i].bad && grown > ENLARGED)
            found(&small, "%s: %dx%d, %.1f times", name_of(it), it->w, it->h, grown);
    }
    size_t sum = end(&small);
    for (size_t i = 0; i < n; i++) {
        const BucketFit *f = &l[i].item->fit;
        double kept = (double)f->bucket.w * f->bucket.h / ((double)f->rw * f->rh);
        if (!l[i].bad && 1 - kept > CROP_LOSS)
            found(&cut, "%s: %dx%d becomes %dx%d, %.0f%% is cut off", name_of(l[i].item),
                  l[i].item->w, l[i].item->h, f->bucket.w, f->bucket.h, 100 * (1 - kept));
    }
    return sum + end(&cut);
}

static size_t report_copies(const Look *l, size_t n)
{
    Finding same = {"the same picture twice", "remove one: its motif would weigh double", 0};
    Finding alike = {"nearly the same picture", "keep the better one, unless you want both", 0};
    for (int exact = 1; exact >= 0; exact--) {
        for (size_t i = 0; i < n; i++)
            for (size_t k = i + 1; k < n; k++) {
                int is_same = !strcmp(l[i].sha, l[k].sha);
                if (l[i].bad || l[k].bad || l[i].item->is_reg != l[k].item->is_reg) continue;
                if (is_same != exact || distance(&l[i], &l[k]) > ALIKE) continue;
                found(exact ? &same : &alike, "%s and %s", l[i].item->path, l[k].item->path);
            }
        if (exact) end(&same);
    }
    return same.count + end(&alike);
}

static size_t report_captions(const TagFolder *t)
{
    Finding none = {"no caption file", "write one: the folder's name is all it gets", 0};
    Finding empty = {"empty caption", "what is not named becomes part of everything", 0};
    for (size_t i = 0; i < t->count; i++)
        if (!t->files[i].before) found(&none, "%s", t->files[i].picture);
    size_t sum = end(&none);
    for (size_t i = 0; i < t->count; i++)
        if (t->files[i].before && !t->files[i].count) found(&empty, "%s", t->files[i].path);
    return sum + end(&empty);
}

static int report_tags(const TagFolder *t, size_t *findings, Err *e)
{
    TagCount *c;
    size_t n, shown = 0;
    Finding once = {"tags of a single picture", "typing errors hide here; sdc tags DIR replace", 0};
    TRY(tags_count(t, &c, &n, e));
    printf("tags        %zu different", n);
    for (; shown < n && shown < 6 && c[shown].count > 1; shown++)
        printf("%s%s (%zu)", shown ? ", " : ": ", c[shown].tag, c[shown].count);
    printf("%s\n", shown && shown < n ? ", ..." : "");
    for (size_t i = 0; i < n && t->count > 3; i++)
        if (c[i].count == 1) found(&once, "%s", c[i].tag);
    *findings += end(&once);
    mem_free(c);
    return 0;
}

static void report_set(const Dataset *ds)
{
    printf("pictures    %zu, %u uses in an epoch\n", ds->item_count, ds->entry_count);
    for (size_t i = 0; i < ds->folder_count; i++)
        printf("folder      %s: %zu pictures x %d repeats%s\n", ds->folders[i].name,
               ds->folders[i].count, ds->folders[i].repeats,
               ds->folders[i].is_reg ? " (regularisation)" : "");
    printf("sizes       ");
    for (size_t i = 0; i < ds->bucket_count; i++)
        printf("%s%dx%d (%u)", i ? ", " : "", ds->buckets[i].w, ds->buckets[i].h,
               ds->buckets[i].count);
    printf("\n");
}

static size_t report_balance(const Dataset *ds)
{
    Finding f = {"folders that outweigh others", "change the repeats in a folder's name", 0};
    for (size_t i = 0; i < ds->folder_count; i++)
        for (size_t k = 0; k < ds->folder_count; k++) {
            const DataFolder *a = &ds->folders[i], *b = &ds->folders[k];
            double x = (double)a->count * a->repeats, y = (double)b->count * b->repeats;
            if (a->is_reg == b->is_reg && y > 0 && x > UNBALANCED * y)
                found(&f, "%s is seen %.1f times as often as %s", a->name, x / y, b->name);
        }
    return end(&f);
}

static int write_sheet(const char *path, Look *l, size_t n, Err *e)
{
    Image *cells = mem_alloc((n + 1) * sizeof *cells), sheet = {0};
    size_t count = 0;
    if (!cells) return err_nomem(e, n * sizeof *cells, "the contact sheet");
    for (size_t i = 0; i < n; i++)
        if (l[i].cell.px) cells[count++] = l[i].cell;
    int cols = count < SHEET_COLS ? (int)count : SHEET_COLS;
    Grid g = {.rows = cols ? (int)(count + (size_t)cols - 1) / cols : 0, .cols = cols, .margin = 2};
    int rc = count ? grid_compose(&sheet, cells, count, &g, e)
                   : err_set(e, ERR_INPUT, "%s: no picture could be read", path);
    if (!rc) rc = image_save(path, &sheet, NULL, e);
    if (!rc) printf("\nas they will be cropped: %s%s\n", path,
                    n > SHEET_MAX ? " (the first ones)" : "");
    image_free(&sheet);
    mem_free(cells);
    return rc;
}

static int report(const Dataset *ds, const TagFolder *t, Look *l, const char *sheet, Err *e)
{
    size_t findings = 0;
    Finding unreadable = {"cannot be used", "remove, or --skip_bad_images", 0};
    report_set(ds);
    TRY(report_tags(t, &findings, e));
    for (size_t i = 0; i < ds->item_count; i++)
        TRY(look(&l[i], &ds->items[i], sheet && i < SHEET_MAX, &unreadable, e));
    findings += end(&unreadable) + report_sizes(l, ds->item_count);
    findings += report_copies(l, ds->item_count) + report_captions(t) + report_balance(ds);
    printf("\n%zu finding%s\n", findings, findings == 1 ? "" : "s");
    return sheet ? write_sheet(sheet, l, ds->item_count, e) : 0;
}

int doctor_data(const DoctorData *o, Err *e)
{
    DataConfig c = {.train_dir = o->dir, .batch_size = 1, .skip_bad_images = 1,
                    .bucket = {.w = o->resolution, .h = o->resolution, .enable = 1},
                    .prior_loss_weight = 1};
    Dataset *ds;
    TagFolder t;
    TRY(dataset_open(&ds, &c, e));
    int rc = tags_open(&t, o->dir, NULL, 1, e);
    if (!rc) {
        Look *l = mem_calloc(ds->item_count, sizeof *l);
        rc = l ? report(ds, &t, l, o->sheet, e) : err_nomem(e, sizeof *l, "the report");
        for (size_t i = 0; l && i < ds->item_count; i++) image_free(&l[i].cell);
        mem_free(l);
        tags_close(&t);
    }
    dataset_close(ds);
    return rc;
}
