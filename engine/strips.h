/* strips.h - less memory for large maps: what is made only to be convolved is made and
 * convolved in strips of rows, and never exists as a whole.
 *
 * A norm in front of a convolution takes its statistics from the map as it is stored,
 * then norms and convolves strip after strip; an upsampling needs no first pass. A
 * shortcut that is added to the result is made in strips as well, and the result is
 * written over what was added to it. Strips have a row of the next one on either side,
 * which is all that is done twice. The result is the same, bit for bit (ops.h, strips).
 *
 * It is a change of a graph without a backward pass, before it is planned. Maps of
 * several pictures are left alone.
 */
#ifndef SDC_ENGINE_STRIPS_H
#define SDC_ENGINE_STRIPS_H

#include "engine/graph.h"

/* From here on a map is cut: below, the strips would not be what memory goes to. */
#define STRIPS_LEAST ((size_t)32 << 20)

/* Cuts maps of `least` bytes or more into strips of about half of that. Does nothing
 * where ops->strips is 0. */
int strips_cut(Graph *g, size_t least, const Ops *ops, Err *e);

#endif
