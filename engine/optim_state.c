/* optim_state.c - the optimizer's state in files, and the map of 8-bit moments; see optim.h. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "engine/mem.h"
#include "engine/optim_impl.h"

/* The blob "optim": this, then the steps of each tensor. */
typedef struct {
    char magic[8];
    uint64_t kind, count, k;
    double d, d_max, numerator, g0, weight_sum[OPTIM_GROUPS], lr_max[OPTIM_GROUPS];
} Header;
static const char magic[8] = "sdcopt2";

/* One host buffer that holds the largest blob. */
static uint8_t *staging(const Optim *o, size_t *size, Err *e)
{
    *size = sizeof(Header) + o->count * 8;
    for (size_t i = 0; i < o->count; i++) {
        OptimPart part[OPTIM_SLOTS];
        for (int k = optim_parts(&o->cfg, &o->list[i], part) - 1; k >= 0; k--)
            if (part[k].bytes > *size) *size = part[k].bytes;
    }
    uint8_t *buf = mem_alloc(*size);
    if (!buf) err_nomem(e, *size, "saving or loading the optimizer's state");
    return buf;
}

/* Moves every state array to save or from load, whichever is set. */
typedef struct { optim_save_fn *save; optim_load_fn *load; void *ctx; uint8_t *buf; } Transfer;

static int transfer_part(const Optim *o, const Transfer *t, const OptimTensor *of,
                         const OptimPart *part, Err *e)
{
    char *name = mem_printf("%s.%s", of->name, part->name);
    if (!name) return err_nomem(e, strlen(of->name), "a state name");
    int rc;
    if (t->save) {
        dev_download(o->dev, t->buf, of->state[part->slot], part->bytes);
        rc = optim_check_device(o, e);
        if (!rc) rc = t->save(t->ctx, name, t->buf, part->bytes, e);
    } else {
        rc = t->load(t->ctx, name, t->buf, part->bytes, e);
        if (!rc) dev_upload(o->dev, of->state[part->slot], t->buf, part->bytes);
    }
    mem_free(name);
    return rc;
}

static int transfer(const Optim *o, const Transfer *t, Err *e)
{
    for (size_t i = 0; i < o->count; i++) {
        OptimPart part[OPTIM_SLOTS];
        int n = optim_parts(&o->cfg, &o->list[i], part);
        for (int k = 0; k < n; k++) TRY(transfer_part(o, t, &o->list[i], &part[k], e));
    }
    return 0;
}

int optim_save(const Optim *o, optim_save_fn *save, void *ctx, Err *e)
{
    size_t size;
    assert(!o->averaged);
    uint8_t *buf = staging(o, &size, e);
    if (!buf) return ERR_MEMORY;
    Header h = {.kind = o->cfg.kind, .count = o->count, .k = o->k, .d = o->d, .d_max = o->d_max,
                .numerator = o->numerator, .g0 = o->g0};
    memcpy(h.magic, magic, sizeof magic);
    memcpy(h.weight_sum, o->weight_sum, sizeof h.weight_sum);
    memcpy(h.lr_max, o->lr_max, sizeof h.lr_max);
    memcpy(buf, &h, sizeof h);
    for (size_t i = 0; i < o->count; i++)
        memcpy(buf + sizeof h + i * 8, &o->list[i].steps, 8);
    int rc = save(ctx, "optim", buf, sizeof h + o->count * 8, e);
    if (!rc) rc = transfer(o, &(Transfer){save, NULL, ctx, buf}, e);
    mem_free(buf);
    return rc;
}

static int load_header(Optim *o, const uint8_t *buf, Err *e)
{
    Header h;
    memcpy(&h, buf, sizeof h);
    if (memcmp(h.magic, magic, sizeof magic) || h.count != o->count || !(h.d > 0) ||
        !isfinite(h.d) || !isfinite(h.d_max) || !isfinite(h.numerator) || !isfinite(h.g0))
        return err_set(e, ERR_INPUT, "saved optimizer state is damaged or from another network; "
                       "start without resuming");
    if (h.kind != o->cfg.kind)
        return err_set(e, ERR_INPUT, "saved optimizer state is of another optimizer; resume with "
                       "the same --optimizer_type");
    o->k = h.k;
    o->d = h.d;
    o->d_max = h.d_max;
    o->numerator = h.numerator;
    o->g0 = h.g0;
    memcpy(o->weight_sum, h.weight_sum, sizeof h.weight_sum);
    memcpy(o->lr_max, h.lr_max, sizeof h.lr_max);
    for (size_t i = 0; i < o->count; i++)
        memcpy(&o->list[i].steps, buf + sizeof h + i * 8, 8);
    return 0;
}

int optim_load(Optim *o, optim_load_fn *load, void *ctx, Err *e)
{
    size_t size;
    uint8_t *buf = staging(o, &size, e);
    if (!buf) return ERR_MEMORY;
    int rc = load(ctx, "optim", buf, sizeof(Header) + o->count * 8, e);
    if (!rc) rc = load_header(o, buf, e);
    if (!rc) rc = transfer(o, &(Transfer){NULL, load, ctx, buf}, e);
    mem_free(buf);
    return rc;
}

/* ---- 8-bit map ----------------------------------------------------------- */

/* torch.linspace(0.1, 1, n + 1), f32, bit for bit. */
static float decade(int k, int n)
{
    float step = (1.0f - 0.1f) / (float)n;
    return k < (n + 1) / 2 ? fmaf(step, (float)k, 0.1f) : fmaf(-step, (float)(n - k), 1.0f);
}

/* Seven decades down from 1, each halved finer than the one below it; the
 * values are the middles of equal parts of [0.1, 1] in each. */
void optim_dynamic_map(float map[256], int is_signed)
{
    static const float scale[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
    int zero = is_signed ? 127 : 0, at = 0;
    map[zero] = 0;
    for (int i = 0; i < 7; i++) {
        int n = is_signed ? 1 << i : 2 << i;
        for (int k = 0; k < n; k++) {
            float x = scale[i] * ((decade(k, n) + decade(k + 1, n)) / 2);
            map[zero + ++at] = x;
            if (is_signed) map[zero - at] = -x;
        }
    }
    map[255] = 1;
}
