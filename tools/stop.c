/* stop.c - see stop.h. The flag is the program's one mutable global: signals
 * have no context to carry it in. */
#include "tools/stop.h"

#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "engine/error.h"

static volatile sig_atomic_t stop_signal;

static void on_signal(int sig)
{
    if (stop_signal) _exit(128 + sig);
    stop_signal = sig;
}

void stop_install(void)
{
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = on_signal;
    sa.sa_flags = SA_RESTART;
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

int stop_code(void)
{
    return !stop_signal ? 0 : stop_signal == SIGINT ? ERR_INT : ERR_TERM;
}
