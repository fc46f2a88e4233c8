/* memory.c - see memory.h. */
#include "tools/memory.h"

#include <stdlib.h>
#include <string.h>

#include "engine/io.h"

size_t memory_sum(const Memory *m)
{
    return m->weights + m->lora + m->gradients + m->optimizer + m->activations + m->host +
           m->process;
}

size_t memory_total(const Memory *m)
{
    size_t sum = memory_sum(m);
    return sum > m->before ? sum : m->before;
}

const char *memory_text(char *s, size_t cap, size_t bytes)
{
    double gb = (double)bytes / (1 << 30);
    if (gb < 1) snprintf(s, cap, "%.0f MB", gb * 1024);
    else snprintf(s, cap, "%.2f GB", gb);
    return s;
}

void memory_line(const Memory *m, FILE *f)
{
    struct { const char *name; size_t bytes; } part[] = {
        {"weights", m->weights}, {"LoRA", m->lora}, {"gradients", m->gradients}, {"optimizer", m->optimizer},
        {"activations", m->activations}, {"pictures", m->host}, {"process", m->process}};
    char s[32];
    fprintf(f, "memory     %s:", memory_text(s, sizeof s, memory_total(m)));
    const char *comma = " ";
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        if (!part[i].bytes) continue;
        fprintf(f, "%s%s %s", comma, part[i].name, memory_text(s, sizeof s, part[i].bytes));
        comma = ", ";
    }
    fputc('\n', f);
    if (m->before > memory_sum(m))
        fprintf(f, "           most of it is needed while latents are made\n");
    if (m->plan.again_nodes)
        fprintf(f,
                "recompute  %d operations of the forward pass, %s of results, about %.1f%% more "
                "time\n", m->plan.again_nodes, memory_text(s, sizeof s, m->plan.again_bytes),
                100 * m->plan.again_share);
}

static void print_bytes(FILE *f, const char *name, size_t bytes, const char *note)
{
    fprintf(f, "%-11s %14zu bytes%s%s%s\n", name, bytes, *note ? "  (" : "", note,
            *note ? ")" : "");
}

void memory_print(const Memory *m, FILE *f)
{
    char at[160] = "";
    if (m->plan.peak)
        snprintf(at, sizeof at, "most at %s%s%s", m->plan.peak->name,
                 *m->plan.peak->name ? " " : "", op_name(m->plan.peak->op));
    print_bytes(f, "weights", m->weights, m->note);
    if (m->lora) print_bytes(f, "LoRA", m->lora, "");
    if (m->gradients) print_bytes(f, "gradients", m->gradients, "");
    if (m->optimizer) print_bytes(f, "optimizer", m->optimizer, "");
    print_bytes(f, "activations", m->activations, at);
    print_bytes(f, "pictures", m->host, "");
    print_bytes(f, "process", m->process, "");
    print_bytes(f, "total", memory_total(m),
                m->before > memory_sum(m) ? "while latents are made" : "");
    if (m->plan.again_nodes)
        fprintf(f,
                "recomputed  %14zu bytes  (%d operations of the forward pass, about %.1f%% more "
                "time)\n", m->plan.again_bytes, m->plan.again_nodes, 100 * m->plan.again_share);
    if (m->seconds > 0) fprintf(f, "step        %14.3g seconds, expected\n", m->seconds);
}

/* A number of kB behind `key` in /proc/self/status, 0 when it is not there. */
static size_t status_kb(const char *key)
{
    char text[4096];
    io_read_small(text, sizeof text, "/proc/self/status");
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

size_t memory_process(void) { return status_kb("VmRSS:") * 1024; }

size_t memory_peak(void) { return status_kb("VmHWM:") * 1024; }

/* Stacks of threads and what the C library holds back: so much more by the end of a run. */
enum { LATER = 8 << 20 };

/* What a GPU's driver, its libraries and the loaded kernels take of the card before anything
 * is allocated: assumed, not measured; 250 to 500 MB are usual. */
enum { CONTEXT = 400 << 20 };

size_t memory_held(const Dev *d) { return dev_own_memory(d) ? CONTEXT : memory_process() + LATER; }

size_t memory_held_later(const Dev *d, const Lora *lora)
{
    size_t now = memory_held(d), later = 0;
    LoraFactor f[LORA_FACTORS];
    if (dev_own_memory(d)) return now;
    for (size_t i = 0; i < lora->count; i++)
        for (int k = lora_factors(&lora->list[i], f) - 1; k >= 0; k--)
            if (*f[k].values && **f[k].values != 0)
                later += lora_factor_count(&f[k]) * sizeof(float);
    return now > later ? now - later : now;             /* factors of zeros are no pages yet */
}

void memory_graph(Memory *m, const Exec *x)
{
    if (x->plan.slab_bytes < m->activations) return;
    m->activations = x->plan.slab_bytes;
    m->plan = x->plan;
}

/* One size up to a comma or the end; NULL when it is none. */
static const char *parse_size(const char *s, size_t *bytes)
{
    char *end;
    double v = strtod(s, &end);
    double unit = *end == 'G' || *end == 'g' ? 1 << 30 : *end == 'M' || *end == 'm' ? 1 << 20 : 0;
    if (end == s || !unit || !(v > 0 && v < 1e6)) return NULL;
    end++;
    if (*end == 'i') end++;
    if (*end == 'B' || *end == 'b') end++;
    *bytes = (size_t)(v * unit);
    return *end && *end != ',' ? NULL : end;
}

int memory_sizes(size_t *bytes, int cap, int *count, const char *option, const char *text, Err *e)
{
    const char *s = text;
    for (*count = 0; *count < cap; s++) {
        s = parse_size(s, &bytes[*count]);
        if (!s) break;
        ++*count;
        if (!*s) return 0;
    }
    return err_set(e, ERR_USAGE, "option --%s: \"%s\" is not a size such as 6G or 1500M%s", option,
                   text, cap > 1 ? ", or a list of them" : "");
}

int memory_size(size_t *bytes, const char *option, const char *text, Err *e)
{
    int count;
    return memory_sizes(bytes, 1, &count, option, text, e);
}

size_t memory_default(const Dev *d)
{
    size_t left = dev_memory_free(d), reserve = left / 20;
    if (reserve < (size_t)256 << 20) reserve = (size_t)256 << 20;
    return left > reserve ? left - reserve : 0;
}
