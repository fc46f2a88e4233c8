/* xyz.h - `sdc grid`: A1111's X/Y/Z plot, pictures along up to three axes on one sheet.
 *
 *   cmd_grid.c    the command: options, plan, conditionings, pictures
 *   xyz_cells.c   the options and the LoRAs of each picture
 *   xyz_sheet.c   the sheet and its text
 *   xyz_axes.c    an axis: "cfg: 4-12(+4)", its values, and what one of them does
 *   xyz_lora.c    axes that change the LoRA of a picture
 *
 * Source: stable-diffusion-webui 1.10, scripts/xyz_grid.py: labels, value lists, ranges,
 * and the fields "X Type", "X Values", "Fixed X Values" of the text. Ranges here end at
 * their end; A1111's with a step may go past it.
 */
#ifndef SDC_TOOLS_XYZ_H
#define SDC_TOOLS_XYZ_H

#include "tools/sample.h"
#include "tools/progress.h"

enum { XYZ_AXES = 3, XYZ_VALUES = 1000, XYZ_CELLS = 10000 };

typedef struct XyzKind XyzKind;

typedef struct {
    char option;               /* 'x', 'y' or 'z' */
    const XyzKind *kind;       /* NULL: not given; one value, which changes nothing */
    char *which;               /* the LoRA that is meant; NULL: there is one only */
    char *raw;                 /* the values as given, for the record */
    OptionList values;
} XyzAxis;

/* text: "NAME: VALUES" of option --x, --y or --z; NULL: *a is without a kind. Seeds of -1
 * are chosen. ERR_USAGE. On failure *a is still to be freed. */
int xyz_axis(XyzAxis *a, char option, const char *text, Err *e);
void xyz_axis_free(XyzAxis *a);
/* Does it say which file a LoRA comes from? */
int xyz_is_file(const XyzAxis *a);
size_t xyz_count(const XyzAxis *a);
/* Changes the options of a picture to value i. ERR_USAGE naming the axis. */
int xyz_apply(const XyzAxis *a, size_t i, Options *opt, SampleOptions *o, Err *e);
/* "Steps: 20" (mem_free). */
char *xyz_label(const XyzAxis *a, size_t i);
/* The fields of the sheet's text, and an axis as its option takes it from them (NULL: there
 * is none, or no memory; mem_free). */
int xyz_record(const XyzAxis *a, Infotext *t, Err *e);
char *xyz_recorded(char option, const Infotext *t);
/* The names of axes, for messages (mem_free). */
char *xyz_names(void);

/* Changes the LoRA of the options: the one of that name, or the only one, in the prompt or
 * in --lora. */
int xyz_lora_strength(SampleOptions *o, const char *which, const char *value, Err *e);
/* Another file or tag, FILE[:W[:TEW]], at the weights of the old one unless it has its own;
 * "none": without it. Where there is no LoRA it is added. */
int xyz_lora_file(SampleOptions *o, const char *which, const char *value, Err *e);
/* kohya's name of the file of an epoch, or the plain name for "last". */
int xyz_lora_epoch(SampleOptions *o, const char *which, const char *value, Err *e);
/* A value of such an axis as people write it: "3" for 000003, "cat epoch 3:0.5" for
 * dir/cat-000003.safetensors:0.5 (mem_free). */
char *xyz_lora_label(const char *value);

typedef struct {
    SampleOptions o;           /* first: the rows of sample_table count from here */
    char *axis[XYZ_AXES];      /* --x, --y, --z */
    int save_cells;
} XyzOptions;

/* One picture. */
typedef struct {
    XyzOptions x;
    Options opt;
    SampleLoras loras;
    size_t set, cond;          /* the first cells with the same LoRAs; and with the same prompts */
    size_t shape;              /* of XyzRun.shape */
    float *context;            /* of the prompts, while cells with this cond are to come */
} XyzCell;

/* Pictures of one size and one number of chunks share graphs. */
typedef struct {
    Pipeline p;
    size_t bytes;              /* on the host: the most that one of them takes */
} XyzShape;

typedef struct {
    XyzOptions x;
    Option *table;
    Options opt;
    Infotext png;              /* of --from_png */
    int tags;                  /* the <lora:...> of the prompts count */
    XyzAxis axis[XYZ_AXES];
    XyzCell *cells;            /* x fastest, then y, then z */
    size_t count;
    SampleLoras files;         /* every LoRA once; texts borrowed from the cells */
    size_t *file_bytes;        /* (files.count) in memory */
    SampleModel names;
    Model m;
    const XyzCell *merged;     /* whose LoRAs are in the weights */
    Tokenizer *tok;
    XyzShape **shape;
    size_t shapes;
    Memory memory;
    Progress progress;
    size_t steps, before, shown;   /* of all pictures; of those that are done; on the screen */
    Image *images;             /* (count) */
    char *text;                /* of the sheet */
} XyzRun;

/* The cells, with options and LoRAs, after the model is open: every LoRA is opened once, and
 * what cannot be is an error here, not when its turn comes. */
int xyz_cells(XyzRun *r, Err *e);
void xyz_cells_free(XyzRun *r);

/* Too large? Before anything is drawn. */
int xyz_sheet_check(const XyzRun *r, Err *e);
/* The text of the sheet, by the first picture, whose pipeline is p. */
int xyz_sheet_text(XyzRun *r, const Pipeline *p, Err *e);
/* Writes the pictures that are there. */
int xyz_sheet(const XyzRun *r, Err *e);

#endif
