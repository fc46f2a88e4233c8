/* test_cli.c - the command line as a user meets it: help, mistakes, exit codes, one line
 * on stderr for whatever went wrong; tensor files from outside through `sdc inspect`. */
#include <stdlib.h>

#include "engine/error.h"
#include "engine/io.h"
#include "engine/mem.h"
#include "tests/fixture.h"
#include "tests/test.h"

static const char *const commands[] = {"sample", "train", "merge", "inspect", "demo",
                                       "bench", "doctor", "tokenize", "probe"};
enum { COMMANDS = sizeof commands / sizeof *commands, CAP = 1 << 16 };

static int lines(const char *s)
{
    int n = 0;
    for (; *s; s++) n += *s == '\n';
    return n;
}

TEST(cli_help_lists_the_commands)
{
    static char out[CAP], err[CAP];
    CHECK_INT(test_sdc("--help", out, err, CAP), 0);
    CHECK_STR(err, "");
    for (int i = 0; i < COMMANDS; i++) {
        char line[32];
        snprintf(line, sizeof line, "\n  %s ", commands[i]);
        CHECK(strstr(out, line));
    }
    CHECK_INT(test_sdc("help", NULL, NULL, 0), 0);
    CHECK_INT(test_sdc("-h", NULL, NULL, 0), 0);
}

TEST(cli_without_a_command_explains_itself)
{
    static char out[CAP], err[CAP];
    CHECK_INT(test_sdc("", out, err, CAP), ERR_USAGE);
    CHECK_STR(out, "");
    CHECK(strstr(err, "usage: sdc COMMAND"));
}

TEST(cli_every_command_has_help)
{
    static char out[CAP], err[CAP];
    for (int i = 0; i < COMMANDS; i++) {
        char args[64], start[64];
        snprintf(args, sizeof args, "%s --help", commands[i]);
        snprintf(start, sizeof start, "sdc %s ", commands[i]);
        CHECK_INT(test_sdc(args, out, err, CAP), 0);
        CHECK_STR(err, "");
        CHECK(!strncmp(out, start, strlen(start)) && strstr(out, " - "));
        CHECK(strstr(out, "--"));
    }
}

/* Wrong command lines, the exit code, and what the one line on stderr must say. */
static const struct {
    const char *args;
    int code;
    const char *says;
} wrong[] = {
    {"smaple", 2, "unknown command \"smaple\"; did you mean sample?"},
    {"frobnicate", 2, "unknown command \"frobnicate\"; see sdc --help"},
    {"sample --promt cat", 2, "unknown option --promt; did you mean --prompt?"},
    {"sample --qqqqqqqqqqqqqq", 2, "unknown option --qqqqqqqqqqqqqq; see sdc sample --help"},
    {"sample -Z", 2, "unknown option -Z"},
    {"sample stray", 2, "unexpected argument \"stray\""},
    {"sample -m m --steps", 2, "--steps: a value is missing"},
    {"sample -m m --steps twelve", 2, "--steps: \"twelve\" is not a whole number"},
    {"sample -m m --steps=1.5", 2, "--steps: \"1.5\" is not a whole number"},
    {"sample -m m --steps 0", 2, "--steps: \"0\" is not between 1 and 1000"},
    {"sample -m m --seed 99999999999999999999", 2, "--seed: \"99999999999999999999\""},
    {"sample -m m --cfg-scale nan", 2, "--cfg_scale: \"nan\" is not a number"},
    {"sample -m m --cfg_scale 7x", 2, "--cfg_scale: \"7x\" is not a number"},
    {"sample -m m --trace=maybe", 2, "--trace: \"maybe\" is not true or false"},
    {"sample -m m --no-steps", 2, "unknown option --no-steps"},
    {"train --network-dimm 4", 2, "unknown option --network-dimm; did you mean --network_dim?"},
    {"train", 2, "--pretrained_model_name_or_path (-m) is missing"},
    {"train -m m", 2, "--train_data_dir (-d) is missing"},
    {"train -m m -d d --max_token_length 80", 2, "--max_token_length: 75, 150 or 225"},
    {"train -m tests/golden/models/tiny-sd1.safetensors -d none", 3, "none"},
    {"inspect", 2, "a file or folder is expected"},
    {"inspect none.safetensors", 3, "none.safetensors: cannot open"},
    {"inspect Makefile", 3, "Makefile: not a safetensors file or torch checkpoint"},
    {"inspect tests/data/conformance/ckpt/evil.ckpt", 4, "refused"},
    {"merge --out x", 2, "--lora"},
    {"merge --lora tests/golden/lora/a.safetensors --out build/no/such/x.safetensors", 1,
     "build/no/such/x.safetensors: cannot create"},
    {"merge --lora tests/golden/lora/a.safetensors:heavy --out build/x", 3, "a.safetensors:heavy"},
    {"tokenize", 2, "either --file FILE or --parse PROMPT is expected"},
    {"tokenize --file none.txt", 3, "none.txt: cannot open"},
    {"bench everything", 2, "\"everything\" is not sample, vae, train or ops"},
    {"bench ops linear conv", 2, "one of sample, vae, train, ops is expected"},
    {"bench ops --dtype f64", 2, "\"f64\" is not f32, bf16, f16 or int8"},
    {"doctor --device toaster", 2, "--device: no device \"toaster\" here"},
    {"doctor --device cuda:x", 2, "--device: no device \"cuda:x\" here; expected auto, cpu"},
    {"probe", 2, "one network name is expected"},
};

TEST(cli_mistakes_are_told_in_one_line)
{
    static char out[CAP], err[CAP];
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int code = test_sdc(wrong[i].args, out, err, CAP);
        if (code != wrong[i].code || strncmp(err, "sdc: ", 5) || lines(err) != 1 ||
            !strstr(err, wrong[i].says))
            test_fail(__FILE__, __LINE__, "sdc %s: exit %d: %s", wrong[i].args, code, err);
    }
}

TEST(cli_dashes_and_underscores_are_the_same)
{
    CHECK_INT(test_sdc("sample --cfg-scale 3 --cfg_scale=4 --no-dry-run --no_dry_run --help", NULL,
                       NULL, 0), 0);
    CHECK_INT(test_sdc("train --train-batch-size 2 --max_train-epochs 3 --help", NULL, NULL, 0), 0);
}

TEST(cli_a_full_disk_behind_stdout_is_an_error)
{
    char args[400], path[300], *err;
    Err e = {0};
    snprintf(path, sizeof path, "%s/err", test_dir());
    snprintf(args, sizeof args, "--help >/dev/full 2>%s #", path);
    CHECK_INT(test_sdc(args, NULL, NULL, 0), ERR_DISK);
    CHECK_OK(io_read_text(&err, NULL, path, CAP, &e), &e);
    int same = !strcmp(err, "sdc: cannot write to standard output\n");
    mem_free(err);
    CHECK(same);
}

TEST(cli_bench_of_ops)
{
    static char out[CAP], err[CAP];
    CHECK_INT(test_sdc("bench ops \"16 n 768\" --dtype f32 --threads 1", out, err, CAP), 0);
    CHECK_STR(err, "");
    CHECK_INT(lines(out), 4);                    /* the machine; forward, backward to x and w */
    CHECK(strstr(out, "peaks ") && strstr(out, "\nlinear_dw      m 16 n 768 k 192"));
    CHECK_INT(test_sdc("bench ops causal --dtype bf16 --threads 1 --json", out, err, CAP), 0);
    CHECK_INT(lines(out), 2);
    CHECK(!strncmp(out, "{\"op\":\"attention\",", 18) && strstr(out, "\"op\":\"attention_bwd\""));
}

TEST(cli_bench_of_steps)
{
    static const char *const what[] = {"sample", "vae", "train"};
    static char out[CAP], err[CAP];
    for (size_t i = 0; i < sizeof what / sizeof *what; i++) {
        char args[400];
        snprintf(args, sizeof args,
                 "bench %s -m %s --width 64 --height 64 --repeat 2 --threads 1 --json", what[i],
                 fixture_model());
        CHECK_INT(test_sdc(args, out, err, CAP), 0);
        CHECK_INT(lines(out), 1);
        CHECK(strstr(out, "\"seconds\":[") && strstr(out, "\"peak_bytes\":"));
    }
}

/* ---- option files ------------------------------------------------------------- */

/* sdc train with this --config_file; the exit code. */
static int with_config(const char *toml, const char *more, char *err)
{
    char path[300], args[600];
    Err e = {0};
    snprintf(path, sizeof path, "%s/c.toml", test_dir());
    if (io_write_file(path, toml, strlen(toml), &e)) return -1;
    snprintf(args, sizeof args, "train --config_file %s %s", path, more);
    return test_sdc(args, NULL, err, CAP);
}

TEST(cli_option_files)
{
    static char err[CAP];
    CHECK_INT(with_config("[a]\nnetwork_dimm = 4\n", "", err), 2);
    CHECK(strstr(err, "unknown option --network_dimm; did you mean --network_dim?"));
    CHECK_INT(with_config("a = 1\n\nb = [\n", "", err), 2);
    CHECK_INT(with_config("seed = 1\nseed 2\n", "", err), 2);
    CHECK(strstr(err, "c.toml:2: "));
    CHECK_INT(with_config("\"loss_type", "", err), 2);
    CHECK(strstr(err, "a key does not end"));
    CHECK_INT(with_config("pretrained_model_name_or_path = \"m\"\n", "", err), 2);
    CHECK(strstr(err, "--train_data_dir (-d) is missing"));
    /* the command line wins */
    const char *toml = "pretrained_model_name_or_path = \"m\"\ntrain_data_dir = \"d\"\n"
                       "network_module = \"from_file\"\n";
    CHECK_INT(with_config(toml, "", err), 2);
    CHECK(strstr(err, "from_file"));
    CHECK_INT(with_config(toml, "--network_module from_line", err), 2);
    CHECK(strstr(err, "from_line"));
}

/* ---- tensor files from outside -------------------------------------------------- */

/* Every line "FILE <tab> accept|reject" of dir/expected.tsv. */
static void conformance(const char *dir, int at_least)
{
    static char err[CAP];
    char path[300], args[700], *text, *save = NULL;
    Err e = {0};
    int count = 0;
    snprintf(path, sizeof path, "%s/expected.tsv", dir);
    CHECK_OK(io_read_text(&text, NULL, path, CAP, &e), &e);
    strtok_r(text, "\n", &save);                       /* the heading */
    for (char *line; (line = strtok_r(NULL, "\n", &save)); count++) {
        char *verdict = strchr(line, '\t');
        if (!verdict) break;
        *verdict++ = 0;
        snprintf(args, sizeof args, "inspect %s/%s", dir, line);
        int code = test_sdc(args, NULL, err, CAP);
        int good = !strncmp(verdict, "accept", 6)
                       ? code == 0 && !*err
                       : (code == ERR_INPUT || code == ERR_UNSAFE) && lines(err) == 1;
        if (!good) test_fail(__FILE__, __LINE__, "%s, %s: exit %d: %s", line, verdict, code, err);
    }
    mem_free(text);
    CHECK(count >= at_least);
}

TEST(cli_inspect_conformance_safetensors)
{
    conformance("tests/data/conformance/safetensors", 50);
}

TEST(cli_inspect_conformance_ckpt)
{
    conformance("tests/data/conformance/ckpt", 6);
    static char err[CAP];
    CHECK_INT(test_sdc("inspect tests/data/conformance/ckpt/evil.ckpt", NULL, err, CAP),
              ERR_UNSAFE);
}
