/* progress.c - see progress.h. */
#include "tools/progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BAR = 10, PLAIN_EVERY_MS = 30000, REDRAW_MS = 100 };

static double now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec * 1e-6;
}

void progress_start(Progress *p, const char *what)
{
    *p = (Progress){.what = what, .terminal = isatty(2), .start_ms = now_ms()};
    p->last_ms = p->start_ms;
}

/* 75 -> "01:15", 3700 -> "1:01:40" */
static void clock_text(char *s, size_t cap, double seconds)
{
    long n = seconds < 0 || seconds > 1e8 ? 0 : (long)(seconds + 0.5);
    if (n >= 3600) snprintf(s, cap, "%ld:%02ld:%02ld", n / 3600, n / 60 % 60, n % 60);
    else snprintf(s, cap, "%02ld:%02ld", n / 60, n % 60);
}

static void line(const Progress *p, size_t done, size_t total, const char *text, double now)
{
    char bar[BAR + 1], spent[24], left[24], speed[32];
    double s = (now - p->start_ms) / 1e3, rate = s > 0 ? (double)(done - p->first) / s : 0;
    int filled = total ? (int)(done * BAR / total) : 0;
    for (int i = 0; i < BAR; i++) bar[i] = i < filled ? '#' : ' ';
    bar[BAR] = 0;
    clock_text(spent, sizeof spent, s);
    clock_text(left, sizeof left, rate > 0 ? (double)(total - done) / rate : 0);
    if (rate > 0 && rate < 1) snprintf(speed, sizeof speed, "%.2fs/it", 1 / rate);
    else snprintf(speed, sizeof speed, "%.2fit/s", rate);
    fprintf(stderr, "%s%s: %3zu%%|%s| %zu/%zu [%s<%s, %s%s%s]%s", p->terminal ? "\r" : "", p->what,
            total ? done * 100 / total : 0, bar, done, total, spent, left, speed, *text ? ", " : "",
            text, p->terminal ? "\033[K" : "\n");
    if (p->terminal) fflush(stderr);
}

void progress_show(Progress *p, size_t done, size_t total, const char *text)
{
    double now = now_ms();
    if (!p->started) {
        p->started = 1;
        p->first = done ? done - 1 : 0;
    }
    int due = now - p->last_ms >= (p->terminal ? REDRAW_MS : PLAIN_EVERY_MS);
    if (!due && done != total) return;
    p->last_ms = now;
    p->shown = p->terminal;
    line(p, done, total, text, now);
}

void progress_end(Progress *p)
{
    if (p->shown) fputc('\n', stderr);
    p->shown = 0;
}
