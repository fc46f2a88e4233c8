/* async.cc - cp.async: copies to shared memory that are under way until waited for. */
#include <vector>

#include "emu.h"

typedef struct { unsigned char *dst; const void *src; int valid, group; } Copy;
typedef struct { std::vector<Copy> copies; int closed; } Pending;   /* of one thread */
static Pending pending[1024];
static int touched;

void emu_async_reset(void)
{
    if (!touched) return;
    for (Pending &p : pending) p.copies.clear(), p.closed = 0;
    touched = 0;
}

void emu_copy_async16(void *shared, const void *src, int valid)
{
    if ((uintptr_t)shared % 16)
        emu_die("copy_async16: shared address %p is not a multiple of 16", shared);
    if (!emu_in_shared(shared, 16)) emu_die("copy_async16: %p is not in shared memory", shared);
    if (valid && (uintptr_t)src % 16)
        emu_die("copy_async16: source %p is not a multiple of 16", src);
    if (valid && !emu_is_device(src, 16))
        emu_die("copy_async16: source %p is not in device memory", src);
    if (emu_sm() < 80) {
        if (valid) memcpy(shared, src, 16);
        else memset(shared, 0, 16);
        return;
    }
    Pending *p = &pending[emu_thread()];
    p->copies.push_back({(unsigned char *)shared, src, valid, p->closed});
    memset(shared, 0xff, 16);
    touched = 1;
}

void emu_copy_async_commit(void)
{
    pending[emu_thread()].closed++;
    touched = 1;
}

void emu_copy_async_wait(int may_wait)
{
    Pending *p = &pending[emu_thread()];
    size_t kept = 0;
    for (const Copy &c : p->copies) {
        if (c.group >= p->closed - may_wait) p->copies[kept++] = c;
        else if (c.valid) memcpy(c.dst, c.src, 16);
        else memset(c.dst, 0, 16);
    }
    p->copies.resize(kept);
}
