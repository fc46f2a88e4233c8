/* train.c - see train.h. */
#include "engine/train.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/mem.h"

int train_init(Trainer *t, Params *ps, const TrainConfig *c, Err *e)
{
    *t = (Trainer){.ps = ps, .c = *c, .end = (uint32_t)c->sched.total};
    memcpy(t->lr, c->lr, (size_t)c->groups * sizeof *t->lr);
    t->c.lr = t->lr;
    if (!t->c.loss_window) t->c.loss_window = 1;
    t->window = mem_calloc(t->c.loss_window, sizeof *t->window);
    if (!t->window) return err_nomem(e, t->c.loss_window * 4ull, "the loss window");
    TRY(lrsched_check(&c->sched, e));
    t->optim = optim_new(&c->optim, ps->dev, ps->ops, t->lr, c->groups, e);
    if (!t->optim) return e->code;
    size_t count = 0;
    for (size_t i = 0; i < ps->count; i++) {      /* by name: the order of the state file */
        const Param *p = ps->index[i];
        if (!p->trainable) continue;
        size_t before = t->optim->count;
        TRY(optim_add(t->optim, p->name, p->group, p->count, NULL, NULL, e));
        if (t->optim->count > before) {
            t->optim->list[before].dt = p->dt;
            optim_shape(&t->optim->list[before], p->ndim, p->dim);
        }
        count++;
    }
    if (!count) return err_set(e, ERR_USAGE, "nothing to train: every learning rate is 0");
    if (ps->streamed && !optim_streams(&c->optim))
        return err_set(e, ERR_USAGE,
                       "this optimizer, or the average of --use_ema, needs all gradients at once; "
                       "weights in bf16 need AdamW, Lion, SGD, their 8-bit forms, or Adafactor");
    t->optim->seed = c->seed;
    t->state_bytes = optim_bytes(t->optim);
    return 0;
}

size_t train_bytes(const Trainer *t) { return t->state_bytes; }

int train_place(Trainer *t, Err *e)
{
    for (size_t i = 0; i < t->optim->count; i++) {
        const Param *p = params_find(t->ps, t->optim->list[i].name);
        t->optim->list[i].param = p->data;
        t->optim->list[i].grad = p->grad;
    }
    if (dev_alloc(t->ps->dev, &t->state, t->state_bytes) != DEV_OK) {
        t->state = NULL;
        return err_nomem(e, t->state_bytes, "the optimizer's state");
    }
    return optim_place(t->optim, t->state, e);
}

void train_free(Trainer *t)
{
    optim_free(t->optim);
    if (t->state) dev_free(t->ps->dev, t->state, t->state_bytes);
    mem_free(t->window);
    mem_free(t->points);
    *t = (Trainer){0};
}

int train_point(Trainer *t, TrainPoint p, Err *e)
{
    TrainPoint *list = mem_grow(t->points, t->point_count, &t->point_cap, sizeof *list);
    if (!list) return err_nomem(e, sizeof *list, "the run's measurements");
    t->points = list;
    list[t->point_count++] = p;
    return 0;
}

/* ---- the loop ------------------------------------------------------------ */

static void record(Trainer *t, double loss)
{
    uint32_t window = t->c.loss_window, filled = t->step < window ? t->step : window;
    t->window[(t->step - 1) % window] = (float)loss;
    double sum = 0;
    for (uint32_t i = 0; i < filled; i++) sum += t->window[i];
    t->loss = loss;
    t->avr_loss = sum / filled;
}

int train_update(void *ctx, Param *p, float *grad, Err *e)
{
    Trainer *t = ctx;
    size_t lo = 0, hi = t->optim->count;       /* by name, as Params.index */
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (strcmp(t->optim->list[mid].name, p->name) < 0) lo = mid + 1;
        else hi = mid;
    }
    if (lo == t->optim->count || strcmp(t->optim->list[lo].name, p->name)) return 0;
    OptimStep s = {.lr_factor = t->lr_factor, .max_grad_norm = t->c.max_grad_norm};
    t->optim->list[lo].grad = grad;
    int rc = optim_update(t->optim, lo, &s, e);
    if (rc) return err_prefix(e, "step %u", t->step + 1);
    t->squares += s.grad_norm * s.grad_norm;
    return 0;
}

static int one_step(Trainer *t, const TrainTask *task, Err *e)
{
    params_zero_grad(t->ps);
    t->lr_factor = lrsched_factor(&t->c.sched, (int)t->step);
    t->squares = 0;
    int micros = task->micros ? task->micros(task->ctx, t->step) : 1;
    double loss = 0;
    if (t->ps->streamed && micros > 1)
        return err_set(e, ERR_USAGE,
                       "weights in bf16 are updated within a batch: several batches cannot be "
                       "summed");
    for (int i = 0; i < micros; i++) {
        float l;
        TRY(task->run(task->ctx, t->step, i, &l, e));
        if (!isfinite(l))
            return err_set(e, ERR_FAIL,
                           "step %u: the loss is not a finite number; nothing was changed. A "
                           "smaller learning rate or --mixed_precision no may help",
                           t->step + 1);
        loss += l;
    }
    OptimStep s = {.lr_factor = t->lr_factor,
                   .max_grad_norm = t->c.max_grad_norm,
                   .grad_norm = sqrt(t->squares)};
    int rc = t->ps->streamed ? 0 : optim_step(t->optim, &s, e);
    if (rc) return err_prefix(e, "step %u", t->step + 1);
    t->grad_norm = s.grad_norm;
    t->step++;
    record(t, loss / micros);
    return 0;
}

int train_run(Trainer *t, const TrainTask *task, Err *e)
{
    while (t->step < t->end) {
        int rc = task->stop ? task->stop(task->ctx) : 0;
        if (rc) return err_set(e, rc, "stopped after step %u", t->step);
        TRY(one_step(t, task, e));
        if (task->after) TRY(task->after(task->ctx, t->step, e));
    }
    return 0;
}
