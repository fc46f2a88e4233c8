/* grid.h - contact sheets: pictures in rows and columns with axis labels. */
#ifndef SDC_ENGINE_GRID_H
#define SDC_ENGINE_GRID_H

#include "engine/image.h"

typedef struct {
    int rows, cols;
    int margin;                       /* white pixels around each picture */
    const char *const *row_labels;    /* (rows) UTF-8, shown left; NULL: none */
    const char *const *col_labels;    /* (cols), shown above; NULL: none */
    int sheets;                       /* such grids, one below the other; 0: one */
    const char *const *sheet_labels;  /* (sheets), above each; NULL: none */
} Grid;

/* Places the n <= sheets*rows*cols pictures (RGB) row by row on white, each in the middle
 * of a place as wide and high as the widest and the highest. Labels are wrapped to their
 * place and cut when it is full; the font has printable ASCII, anything else shows as '?'.
 * out is RGB, owned by the caller. ERR_MEMORY; ERR_FAIL when the sheet is too large. */
int grid_compose(Image *out, const Image *cells, size_t n, const Grid *g, Err *e);

/* The size of a sheet with places of w x h pixels; ERR_FAIL when that is too large. */
int grid_size(const Grid *g, int w, int h, int *out_w, int *out_h, Err *e);

/* Draws one line of ASCII in black, each dot scale x scale pixels, clipped to
 * the picture; a character takes GRID_CHAR_W x GRID_CHAR_H dots. */
enum { GRID_CHAR_W = 6, GRID_CHAR_H = 10 };
void grid_text(Image *im, int x, int y, int scale, const char *s, size_t n);

#endif
