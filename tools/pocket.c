/* pocket.c - see pocket.h. */
#include "tools/pocket.h"

#include <string.h>
#include <unistd.h>

#include "engine/io.h"
#include "engine/mem.h"

int pocket_find(char **dir, const char *file, const char *option, Err *e)
{
    static const char *const places[] = {"models/pocket", "../share/sdc/pocket"};
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    char *slash = strrchr(exe, '/');
    if (slash) *slash = 0;
    for (size_t i = 0; i < 3; i++) {
        char *at = i < 2 ? mem_printf("%s/%s", exe, places[i]) : mem_strdup("models/pocket");
        char *path = at ? mem_printf("%s/%s", at, file) : NULL;
        if (!path) return mem_free(at), err_nomem(e, 64, "a path");
        int there = io_exists(path) == 1;
        mem_free(path);
        if (there) return *dir = at, 0;
        mem_free(at);
    }
    return err_set(e, ERR_INPUT, "%s was not found beside the program; name %s with %s", file,
                   strchr(file, '/') ? "one" : "its folder", option);
}
