/* cmd_doctor.c - `sdc doctor`: what this machine has, and which jobs fit; `sdc doctor
 * DIR`: what is wrong with a folder of training pictures (doctor_data.c).
 */
#include <stdint.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "tools/cmd.h"
#include "tools/doctor.h"
#include "tools/jobs.h"
#include "tools/machine.h"
#include "tools/memory.h"
#include "tools/options.h"
#include "tools/sd15.h"

typedef struct {
    char *device, *sheet;
    int threads, resolution;
    OptionList rest;
} DoctorOptions;

#define AT(field) offsetof(DoctorOptions, field)
static const Option table[] = {
    {"device", 0, OPT_TEXT, AT(device), 0, 0, "NAME", "where to run: " DEV_NAMES, NULL},
    {"threads", 't', OPT_INT, AT(threads), 0, 1024, "N", "0: all cores (0)", NULL},
    {"resolution", 0, OPT_INT, AT(resolution), 64, 4096, "N",
     "DIR: of the training (512); a multiple of 64", NULL},
    {"sheet", 0, OPT_TEXT, AT(sheet), 0, 0, "FILE.png",
     "DIR: all pictures as they will be cropped", NULL},
};

enum { SIDE = 512, RANK = 32 };

static const struct { const char *name; Job job; } jobs[] = {
    {"sample, 512x512", {JOB_PICTURE, SIDE, 1, 0}},
    {"train a LoRA of rank 32, 512x512, batch 1, AdamW8bit", {JOB_LORA, SIDE, 1, RANK}},
    {"train all of it, 512x512, batch 1, --full_bf16, AdamW8bit", {JOB_FULL, SIDE, 1, 0}},
};

/* ---- the report ----------------------------------------------------------------- */

static double gigabytes(double bytes) { return bytes / (1 << 30); }

static void print_machine(const Dev *d)
{
    double page = (double)sysconf(_SC_PAGESIZE), all = page * (double)sysconf(_SC_PHYS_PAGES);
    printf("device      %s%s\n", dev_name(d), dev_fast_bf16(d) ? ", fast in bf16" : "");
    char gpu[400];
    for (int i = 0; dev_describe(i, gpu, sizeof gpu); i++) printf("gpu         %s\n", gpu);
    printf("cores       %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    Dev *host = NULL;                              /* the machine's memory, whatever d is */
    if (dev_own_memory(d)) dev_open(&host, "cpu", 1, ~0u);
    double left = (double)dev_memory_free(host ? host : d);
    printf("memory      %.1f GB free of %.1f GB\n", gigabytes(left), gigabytes(all));
    dev_close(host);
    struct statvfs v;
    if (!statvfs(".", &v)) {
        double disk = (double)v.f_bavail * (double)v.f_frsize;
        printf("disk        %.1f GB free here\n", gigabytes(disk));
    }
#ifdef SDC_WEBP
    printf("pictures    PNG, JPEG, BMP, WebP\n");
#else
    printf("pictures    PNG, JPEG, BMP; no WebP: libwebp was not there when sdc was built\n");
#endif
}

static int run(const DoctorOptions *o, Err *e)
{
    char device[64];
    SdConfig config;
    Dev *d;
    TRY(config_from_json(&config, SD15_CONFIG, "SD 1.5", e));
    machine_device(device, sizeof device, o->device);
    if (dev_open(&d, device, o->threads, ~0u)) {
        char why[300];
        dev_why(device, why, sizeof why);
        return err_set(e, ERR_USAGE, "option --device: %s", why);
    }
    print_machine(d);
    size_t budget = memory_default(d) + memory_held(d);
    JobMachine m = {.budget = SIZE_MAX};
    m.model = (ModelOptions){.device = device, .threads = o->threads, .config = &config,
                             .dtype = dev_fast_bf16(d) ? DT_BF16 : DT_F32};
    dev_close(d);
    printf("\nwith SD 1.5 in %-44s  memory  fits\n", model_dtype_name(m.model.dtype));
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++) {
        JobPlan all, less = {0};
        TRY(job_plan(&all, &m, &jobs[i].job, e));
        JobMachine here = {.model = m.model, .budget = budget};
        if (all.bytes > budget) TRY(job_plan(&less, &here, &jobs[i].job, e));
        printf("%-59s %5.1f GB  %s\n", jobs[i].name, gigabytes((double)all.bytes),
               all.bytes <= budget ? "yes" : less.bytes ? "yes, slower" : "no");
    }
    return 0;
}

int cmd_doctor(int argc, char **argv, Err *e)
{
    DoctorOptions o = {.resolution = 512};
    Options opt = {.table = table, .count = sizeof table / sizeof *table, .fields = &o,
                   .command = "sdc doctor [DIR]", .rest = &o.rest,
                   .summary = "what this machine has, and which jobs fit; or, of a folder of "
                              "training pictures, what is wrong with it"};
    int help = 0, rc = options_parse(&opt, argc, argv, &help, e);
    if (!rc && help) options_help(&opt, stdout);
    else if (!rc && o.rest.count > 1)
        rc = err_set(e, ERR_USAGE, "%s: one folder at a time", o.rest.item[1]);
    else if (!rc && o.rest.count) {
        DoctorData d = {.dir = o.rest.item[0], .resolution = o.resolution, .sheet = o.sheet};
        rc = doctor_data(&d, e);
    } else if (!rc) rc = run(&o, e);
    options_free(&opt);
    return rc;
}
