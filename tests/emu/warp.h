/* warp.h - between block.cc, which runs threads, and warp.cc, where lanes meet. */
#ifndef EMU_WARP_H
#define EMU_WARP_H

void block_wait(void);                         /* the thread that runs waits for block_resume */
void block_resume(int t);
void block_step_aside(void);
int block_threads(void);
extern unsigned block_alive[32];               /* lanes of each warp that have not ended */

void warp_reset(void);                         /* before each block */
/* "__shfl_sync(mask)" where thread t waits, with the lanes that are missing. */
const char *warp_waits_at(int t);

#endif
