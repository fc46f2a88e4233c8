# sdc - see README.md. `make help` lists the targets.
CC      ?= cc
CONFIG  ?= release
B       := build/$(CONFIG)
PKGS    := jansson libutf8proc zlib libcrypto
WEBP    := $(shell pkg-config --exists libwebp && echo libwebp)
ARCH    := $(shell $(CC) -dumpmachine | cut -d- -f1)

CPPFLAGS += -I. -D_GNU_SOURCE $(if $(WEBP),-DSDC_WEBP) $(shell pkg-config --cflags $(PKGS) $(WEBP))
WARN    := -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Werror
CFLAGS  ?= -O2 -g
ALLFLAGS = -std=c11 -fopenmp -ffp-contract=off $(WARN) $(CFLAGS) $(SAN)
LDLIBS  := $(shell pkg-config --libs $(PKGS) $(WEBP)) -lm

SAN_asan  := -fsanitize=address -fno-omit-frame-pointer
SAN_ubsan := -fsanitize=undefined -fno-sanitize-recover=all
SAN_sanitize := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_tsan  := -fsanitize=thread
SAN := $(SAN_$(CONFIG))
Q := $(if $(V),,@)

LIB_SRC  := $(wildcard kernels/*.c kernels/ref/*.c engine/*.c models/*.c tokenizer/*.c)
TOOL_SRC := $(wildcard tools/*.c)
TEST_SRC := $(filter-out tests/bench_%.c,$(wildcard tests/*.c))
LIB_OBJ  := $(LIB_SRC:%.c=$(B)/%.o)

# kernels/x86 is compiled twice, once for each vector width; kernels/ops.c picks at run time.
ifneq ($(filter x86_64 amd64,$(ARCH)),)
X86_SRC := $(wildcard kernels/x86/*.c)
LIB_OBJ += $(X86_SRC:%.c=$(B)/%.avx2.o) $(X86_SRC:%.c=$(B)/%.avx512.o)
CPPFLAGS += -DSDC_X86
endif
AVX2   := -DSDC_AVX2 -mavx2 -mfma -mf16c
AVX512 := -DSDC_AVX512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mavx512vnni -mprefer-vector-width=512

TOOL_OBJ := $(TOOL_SRC:%.c=$(B)/%.o)
TEST_OBJ := $(TEST_SRC:%.c=$(B)/%.o)

all: sdc                        ## build ./sdc

sdc: $(B)/sdc
	cp $< $@.tmp && mv $@.tmp $@

$(B)/sdc: $(TOOL_OBJ) $(LIB_OBJ)
	@echo "  LD $@"
	$Q$(CC) $(ALLFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Tests reach functions of engine/mem.c and engine/io.c through --wrap to make them fail.
WRAP := mem_alloc mem_calloc mem_realloc io_write_all io_sync
$(B)/test: $(TEST_OBJ) $(LIB_OBJ)
	@echo "  LD $@"
	$Q$(CC) $(ALLFLAGS) $(LDFLAGS) $(WRAP:%=-Wl,--wrap=%) -o $@ $^ $(LDLIBS)

$(B)/%.avx2.o: %.c
	@mkdir -p $(@D)
	@echo "  CC $<"
	$Q$(CC) $(CPPFLAGS) $(ALLFLAGS) $(AVX2) -MMD -MP -c -o $@ $<
$(B)/%.avx512.o: %.c
	@mkdir -p $(@D)
	@echo "  CC $<"
	$Q$(CC) $(CPPFLAGS) $(ALLFLAGS) $(AVX512) -MMD -MP -c -o $@ $<
$(B)/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC $<"
	$Q$(CC) $(CPPFLAGS) $(ALLFLAGS) -MMD -MP -c -o $@ $<

test: sdc $(B)/test             ## build and run the tests
	$(B)/test

asan ubsan tsan sanitize:       ## the tests under a sanitizer (sanitize: address and undefined)
	$(MAKE) CONFIG=$@ build/$@/sdc build/$@/test
	SDC_BIN=build/$@/sdc build/$@/test

clean:                          ## remove build/ and ./sdc
	rm -rf build sdc

help:                           ## this list
	@grep -E '^[a-z][a-z ]*:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 28

.PHONY: all test asan ubsan tsan sanitize clean help
-include $(LIB_OBJ:.o=.d) $(TOOL_OBJ:.o=.d) $(TEST_OBJ:.o=.d)
