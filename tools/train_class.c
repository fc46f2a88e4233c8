/* train_class.c - regularisation pictures that are missing (--num_class_images): the model
 * makes them, before it is trained, from --class_prompt (prior preservation, Ruiz et al.,
 * arXiv:2208.12242, as diffusers' DreamBooth script).
 *
 *   reg_data_dir/1_class/class-00000.png and .txt     or in the first folder that is there
 * Picture i has the seed of the run plus i, and those that exist are left alone: after a
 * stop the rest follows, and the set is the same.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "engine/io.h"
#include "engine/mem.h"
#include "models/pipeline.h"
#include "tools/stop.h"
#include "tools/train.h"

enum { STEPS = 25 };
static const float GUIDANCE = 7.5f;

static int count_pictures(size_t *n, const char *dir, char **folder, Err *e)
{
    char **names;
    size_t count;
    TRY(io_list(&names, &count, dir, e));
    for (size_t i = 0; i < count; i++) {
        char *path = folder && isdigit((unsigned char)names[i][0])
                         ? mem_printf("%s/%s", dir, names[i])
                         : NULL;
        if (path && io_exists(path) == 2) {
            size_t inside = 0;
            if (!count_pictures(&inside, path, NULL, NULL)) *n += inside;
            if (!*folder) *folder = path, path = NULL;
        } else {
            *n += image_has_extension(names[i]);
        }
        mem_free(path);
    }
    io_list_free(names, count);
    return 0;
}

/* How many are there, and the folder for more of them (mem_free). */
static int find(const TrainOptions *o, size_t *there, char **folder, Err *e)
{
    *there = 0;
    *folder = NULL;
    if (io_exists(o->reg_data_dir)) TRY(count_pictures(there, o->reg_data_dir, folder, e));
    if (!*folder)
        *folder = *there ? mem_strdup(o->reg_data_dir) : mem_printf("%s/1_class", o->reg_data_dir);
    return *folder ? 0 : err_nomem(e, 64, "a file name");
}

int train_class_none(const TrainOptions *o)
{
    size_t there = 0;
    char *folder = NULL;
    int none = o->num_class_images && o->reg_data_dir && !find(o, &there, &folder, NULL) && !there;
    mem_free(folder);
    return none;
}

int train_class_missing(TrainRun *r, Err *e)
{
    const TrainOptions *o = &r->o;
    r->class_missing = 0;
    if (!o->num_class_images) {
        if (o->class_prompt)
            return err_set(e, ERR_USAGE, "option --class_prompt: needs --num_class_images");
        return 0;
    }
    if (!o->reg_data_dir || !o->class_prompt || !o->model || o->train_vae)
        return err_set(e, ERR_USAGE,
                       "option --num_class_images: needs --reg_data_dir, where the pictures go, "
                       "--class_prompt, what they show, and a model that can make them");
    char *folder;
    size_t there, wanted = (size_t)o->num_class_images;
    TRY(find(o, &there, &folder, e));
    mem_free(folder);
    if (there < wanted) r->class_missing = wanted - there;
    return 0;
}

/* PipelineConfig.poll */
static int poll_stop(void *ctx, int done, int total)
{
    (void)ctx, (void)done, (void)total;
    return stop_code();
}

/* Everything at once or, if that is more than may be used, U-Net and decoder in turn. */
static int plan_within(TrainRun *r, Pipeline *p, Err *e)
{
    PipelineConfig c = {.prompt = r->o.class_prompt,
                        .negative = "",
                        .steps = STEPS,
                        .cfg_scale = GUIDANCE,
                        .sampler = SAMPLER_DPMPP_2M,
                        .clip_skip = r->o.clip_skip,
                        .rng = RNG_NV,
                        .v_pred = r->o.v_pred || r->m.ck->config.v_prediction,
                        .poll = poll_stop};
    size_t budget = memory_default(r->m.dev) + memory_held(r->m.dev), need = 0;
    if (r->o.ram) TRY(memory_size(&budget, "ram", r->o.ram, e));
    TRY(train_resolution(&r->o, &c.width, &c.height, e));
    c.width = c.width / PIPELINE_ALIGN * PIPELINE_ALIGN;
    c.height = c.height / PIPELINE_ALIGN * PIPELINE_ALIGN;
    for (c.swap = 0; c.swap < 2; c.swap++) {
        pipeline_free(p);
        r->m.slab = (Slab){.dev = r->m.dev};
        TRY(pipeline_init(p, &r->m, r->tok, &c, e));
        need = pipeline_device_bytes(p) + memory_held(r->m.dev);
        if (!dev_own_memory(r->m.dev)) need += pipeline_bytes(p);
        if (need <= budget) return 0;
    }
    char text[32];
    return err_set(e, ERR_MEMORY,
                   "class pictures of %dx%d need %s, more than may be used; make them elsewhere "
                   "and put them into %s",
                   c.width, c.height, memory_text(text, sizeof text, need), r->o.reg_data_dir);
}

static int make_picture(const TrainRun *r, Pipeline *p, Image *im, const char *folder, size_t i,
                        int *made, Err *e)
{
    const char *ext =
        r->o.caption_extension && *r->o.caption_extension ? r->o.caption_extension : ".txt";
    char *path = mem_printf("%s/class-%05zu.png", folder, i);
    char *text = mem_printf("%s/class-%05zu%s%s", folder, i, *ext == '.' ? "" : ".", ext);
    int rc = path && text ? 0 : err_nomem(e, 64, "a file name");
    *made = !rc && !io_exists(path);
    if (*made) rc = pipeline_run(p, (uint64_t)r->o.seed + i, im, e);
    /* the caption first: a picture that is there is complete */
    if (!rc && *made) rc = io_write_file(text, r->o.class_prompt, strlen(r->o.class_prompt), e);
    if (!rc && *made) rc = image_save(path, im, NULL, e);
    mem_free(path);
    mem_free(text);
    return rc;
}

static int make_all(const TrainRun *r, Pipeline *p, const char *folder, size_t missing, Err *e)
{
    Image im;
    Progress progress;
    TRY(image_new(&im, p->c.width, p->c.height, 3, e));
    progress_start(&progress, "class pictures");
    int rc = 0, made;
    for (size_t i = 0, done = 0; !rc && done < missing; i++) {
        rc = make_picture(r, p, &im, folder, i, &made, e);
        if (!rc && made) progress_show(&progress, ++done, missing, "");
    }
    progress_end(&progress);
    image_free(&im);
    return rc;
}

int train_class_images(TrainRun *r, size_t missing, Err *e)
{
    char *folder = NULL;
    size_t there;
    Pipeline *p = mem_calloc(1, sizeof *p);
    if (!p) return err_nomem(e, sizeof *p, "class pictures");
    int rc = train_open_model(r, e);
    if (!rc) rc = bpe_open(&r->tok, e);
    if (!rc) rc = plan_within(r, p, e);
    if (!rc) rc = find(&r->o, &there, &folder, e);
    if (!rc) rc = io_mkdirs(folder, e);
    if (!rc) fprintf(stderr, "class      %zu pictures of \"%s\" are made first, into %s\n", missing,
                     r->o.class_prompt, folder);
    if (!rc) rc = pipeline_load(p, e);
    if (!rc) rc = make_all(r, p, folder, missing, e);
    pipeline_free(p);
    mem_free(p);
    mem_free(folder);
    return rc;
}
