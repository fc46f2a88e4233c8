/* cmd_train.c - `sdc train`: from options and folders to a trained file.
 *
 * Order: options, model, pictures, graphs (all memory is known now), summary,
 * weights, latents, steps, files.
 */
#include <inttypes.h>
#include <stdio.h>

#include "engine/mem.h"
#include "tools/cmd.h"
#include "tools/stop.h"
#include "tools/sweep.h"

static void summary(const TrainRun *r)
{
    const TrainOptions *o = &r->o;
    const Dataset *ds = r->ds;
    char optimizer[1200];
    optim_describe(&r->t.optim->cfg, optimizer, sizeof optimizer);
    fprintf(stderr, "device     %s, %s\n", dev_name(r->m.dev), model_dtype_name(r->m.dtype));
    fprintf(stderr, "model      %s (%s)\n", o->model ? o->model : o->init,
            config_name(&r->m.ck->config));
    fprintf(stderr, "pictures   %zu", ds->item_count);
    if (ds->reg_images) fprintf(stderr, " (%zu of regularisation)", ds->reg_images);
    fprintf(stderr, ", %" PRIu32 " uses per epoch, %zu sizes%s\n", ds->entry_count,
            ds->bucket_count, r->ft.varies ? ", encoded at each use" : "");
    fprintf(stderr,
            "steps      %" PRIu32 " = %" PRIu32
            " per epoch x %.4g epochs (batch %d, accumulation %d)\n",
            r->total, r->steps_per_epoch, (double)r->total / r->steps_per_epoch, o->batch,
            o->accumulation);
    if (o->ti) fprintf(stderr, "word       %s, %d vectors\n", o->token_string, o->num_vectors);
    if (train_is_lora(o))
        fprintf(stderr, "%-10s rank %d, alpha %g, %zu modules%s\n", train_network_name(&r->network),
                o->network_dim, o->network_alpha, r->lora.count,
                o->conv_dim ? ", with convolutions" : "");
    if (o->train_vae || o->ti)
        fprintf(stderr, "rates      %g, %s, %s\n", o->lr, o->lr_scheduler, optimizer);
    else if (r->find[GROUP_UNET] || r->find[GROUP_TEXT])
        fprintf(stderr, "rates      found by short runs before the first step, %s, %s\n",
                o->lr_scheduler, optimizer);
    else
        fprintf(stderr, "rates      U-Net %g, text encoder %g, %s, %s\n", o->unet_lr, o->text_lr,
                o->lr_scheduler, optimizer);
    fprintf(stderr, "seed       %lld\n", (long long)o->seed);
    if (!o->train_vae && o->micro < o->batch)
        fprintf(stderr, "pieces     %d of %d pictures at a time, to fit in memory\n", o->micro,
                o->batch);
    memory_line(&r->memory, stderr);
}

static int train(TrainRun *r, Err *e)
{
    if (r->o.sweep.count) return sweep_train(r, e);
    TRY(train_open(r, e));
    if (r->table) return 0;
    train_print_choices(r);
    summary(r);
    train_print_defaults(r);
    if (r->o.dry_run) return train_print_memory(r, e);
    TRY(train_start(r, e));
    TRY(train_steps(r, 0, e));
    return train_finish(r, e);
}

int cmd_train(int argc, char **argv, Err *e)
{
    TrainRun *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem(e, sizeof *r, "the run");
    int help, rc = train_parse(r, argc, argv, &help, e);
    if (!rc && help) {
        options_help(&r->opt, stdout);
    } else if (!rc) {
        stop_install();
        rc = train(r, e);
    }
    train_close(r);
    mem_free(r);
    return rc;
}
