/* tagger_train.h - training a tagger on the captions of a data set (`sdc tag --train`).
 *
 *   loss = mean over pictures and tags of the binary cross-entropy of each tag's logit
 *
 * The tags are those that enough captions have, the commonest first. Pictures are shown as
 * tagger_square makes them, then moved, turned, scaled and lit a little, each time anew; a
 * step is a function of (seed, step), so a resumed run needs only the weights.
 */
#ifndef SDC_MODELS_TAGGER_TRAIN_H
#define SDC_MODELS_TAGGER_TRAIN_H

#include "engine/data.h"
#include "models/tagger.h"

typedef struct {
    int batch;                 /* pictures a step */
    int words;                 /* tags are the words of captions (engine/captiontags.h) */
    int min_count;             /* captions that a tag must be in */
    const char *undesired;     /* tags that are left out, divided by commas; NULL: none */
    int flip;                  /* mirror every second use */
    uint64_t seed;
} TaggerTrainConfig;

typedef struct {
    Tagger *t;
    const Dataset *ds;
    TaggerTrainConfig c;
    Exec exec;
    Image *pictures;           /* (item_count) square; owned */
    unsigned char *labels;     /* (item_count,tags) */
    uint32_t *order, epoch;    /* permutation of the data set's entries in `epoch` */
    float *pixels, *target;    /* (N,side,side,3), (N,tags) */
} TaggerTrain;

/* Builds and plans; t is a new model (tagger_open with init), whose tags are filled here.
 * ERR_INPUT when there are none. *t and *ds must outlive r. */
int tagger_train_init(TaggerTrain *r, Tagger *t, const Dataset *ds, const TaggerTrainConfig *c,
                      Err *e);
void tagger_train_free(TaggerTrain *r);                    /* zeroed r ok */
/* After tagger_load: each logit begins at what the tag's share of the pictures makes it. */
int tagger_train_start(TaggerTrain *r, Err *e);
/* Forward and backward of step's batch (TrainTask.run). */
int tagger_train_run(TaggerTrain *r, uint32_t step, float *loss, Err *e);

#endif
