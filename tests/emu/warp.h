/* warp.h - between block.cc, which runs threads, and warp.cc, where lanes meet. */
#ifndef EMU_WARP_H
#define EMU_WARP_H

/* The thread that runs gives way: for good until block_resume() names it. */
void block_yield(void);
void block_resume(int warp, unsigned lanes);   /* can run again */
int block_threads(void);
extern unsigned block_alive[32];               /* lanes of each warp that have not ended */

void warp_reset(void);                         /* before each block */
/* "__shfl_sync(mask)" where thread t waits, with the lanes that are missing. */
const char *warp_waits_at(int t);

#endif
