/* doctor.h - `sdc doctor DIR`: what is wrong with a folder of training pictures. */
#ifndef SDC_TOOLS_DOCTOR_H
#define SDC_TOOLS_DOCTOR_H

#include "engine/error.h"

typedef struct {
    const char *dir;           /* kohya's folders, or pictures */
    int resolution;            /* of the square whose area the buckets have */
    const char *sheet;         /* PNG of all pictures as they will be cropped; NULL: none */
} DoctorData;

/* Prints the report on stdout. ERR_INPUT only when there is nothing to look at. */
int doctor_data(const DoctorData *o, Err *e);

#endif
