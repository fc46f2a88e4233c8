# sdc - see README.md. `make help` lists the targets.
#
#   make CONFIG=clang CC=clang     another folder of objects, below build/
#   make ARCH=generic              no vector instructions: plain C only
#   make CUDA=1                    with nvcc: GPUs too, build/release-cuda/sdc; it wants
#                                  libcublasLt and libcudnn to start, but no driver
#   make EMU=1                     the same kernels on an emulated GPU (tests/emu); EMU=sanitize
#                                  has the kernels with sanitizers: build/emu/sdc-sanitize
#   make V=1                       show the commands
CC      ?= cc
PREFIX  ?= /usr/local
CONFIG  ?= $(if $(CUDA),release-cuda,$(if $(EMU),emu,release))
ARCH    := $(shell $(CC) -dumpmachine | cut -d- -f1)
B       := build/$(CONFIG)$(if $(filter generic,$(ARCH)),-generic)
# Few files know which kernels there are. Builds that differ in that only share the rest, in H.
H       := $(if $(filter build/release-% build/emu%,$(B)),build/release,$(B))
KNOWING := $(shell grep -lE 'SDC_(CUDA|X86)|"kernels/impl.def"' kernels/*.c tests/*.c)
objects  = $(foreach f,$(1),$(if $(filter $(f),$(KNOWING)),$(B),$(H))/$(f:.c=.o))
PKGS    := jansson libutf8proc zlib libcrypto
WEBP    := $(shell pkg-config --exists libwebp && echo libwebp)
HTTP    := $(shell pkg-config --exists libmicrohttpd && echo libmicrohttpd)

CPPFLAGS += -I. -D_GNU_SOURCE $(if $(WEBP),-DSDC_WEBP) $(if $(HTTP),-DSDC_MICROHTTPD) \
            $(shell pkg-config --cflags $(PKGS) $(WEBP) $(HTTP))
WARN    := -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Werror
CFLAGS  ?= -O2 -g
ALLFLAGS = -std=c11 -fopenmp -ffp-contract=off $(WARN) $(CFLAGS) $(SAN)
LDLIBS  := $(shell pkg-config --libs $(PKGS) $(WEBP) $(HTTP)) -lm

SAN_asan  := -fsanitize=address -fno-omit-frame-pointer
SAN_ubsan := -fsanitize=undefined -fno-sanitize-recover=all
# Reports need lines, no more.
SAN_sanitize := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1
SAN_tsan  := -fsanitize=thread -Wno-pass-failed
SAN_fuzz  := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -Wno-pass-failed
SAN := $(SAN_$(CONFIG))
Q := $(if $(V),,@)

LIB_SRC  := $(wildcard kernels/*.c kernels/ref/*.c engine/*.c models/*.c tokenizer/*.c)
TOOL_SRC := $(wildcard tools/*.c)
TEST_SRC := $(wildcard tests/*.c)
EMOJI_SRC := $(wildcard models/pocket/*.c)
FUZZ     := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
LIB_OBJ  := $(call objects,$(LIB_SRC))

# kernels/x86 is compiled for each vector width, and the ops of bf16 once more with
# products of bf16; kernels/ops.c picks at run time. What these share is compiled once:
# kernels/gemm_plan.c, kernels/i8_plan.c.
ifeq ($(filter x86_64 amd64,$(ARCH)),)
LIB_OBJ := $(filter-out $(H)/kernels/gemm_plan.o $(H)/kernels/i8_plan.o,$(LIB_OBJ))
else
X86_SRC := $(wildcard kernels/x86/*.c)
X86_BF16 := $(filter-out kernels/x86/optim%,$(X86_SRC))
LIB_OBJ += $(X86_SRC:%.c=$(H)/%.avx2.o) $(X86_SRC:%.c=$(H)/%.avx512.o) \
           $(X86_BF16:%.c=$(H)/%.avx512bf16.o)
KERNELS += -DSDC_X86
endif
AVX2   := -DSDC_X86 -DSDC_AVX2 -mavx2 -mfma -mf16c
AVX512 := -DSDC_X86 -DSDC_AVX512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl \
          -mprefer-vector-width=512
BF16   := $(AVX512) -DSDC_BF16 -mavx512bf16 -mavx512vnni
# Products of bytes are for machines that have them: DEV_VNNI.
$(H)/kernels/x86/i8_micro.avx512.o: AVX512 += -mavx512vnni

# With checks, gcc takes two to three times as long at -O2, for what seldom runs long; the micro
# kernels are twice as slow at -O1.
ifeq ($(CONFIG),sanitize)
RARE := $(filter-out %_micro.c,$(X86_SRC)) $(TOOL_SRC) $(TEST_SRC) engine/stb.c
$(foreach v,avx2.o avx512.o avx512bf16.o o,$(RARE:%.c=$(H)/%.$(v))): SAN += -O1
endif

# kernels/cuda: files with OP(...) are compiled once for each dtype. With nvcc, or for the
# host against tests/emu/include and with the runtime in tests/emu.
ifneq ($(CUDA)$(EMU),)
CU_TYPED := $(shell grep -lw OP $(wildcard kernels/cuda/*.cu))
CU_ONCE  := $(filter-out $(CU_TYPED),$(wildcard kernels/cuda/*.cu)) kernels/dev_cuda.cu
CUB      := $(B)/$(if $(filter sanitize,$(EMU)),sanitized/)
CU_OBJ   := $(CU_ONCE:%.cu=$(CUB)%.cu.o) \
            $(foreach t,f32 bf16 f16,$(CU_TYPED:%.cu=$(CUB)%.$(t).cu.o))
LIB_OBJ  += $(CU_OBJ)
KERNELS  += -DSDC_CUDA
endif
$(KNOWING:%.c=$(B)/%.o): CPPFLAGS += $(KERNELS)
ifneq ($(CUDA),)
CUDA_HOME  ?= /usr/local/cuda
CUDA_ARCHS ?= 75 80 86 89 90
NVCC       ?= $(CUDA_HOME)/bin/nvcc
CUDNN      := $(if $(wildcard $(CUDA_HOME)/include/cudnn.h /usr/include/cudnn.h),1)
CUDA_LIB   := $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib))
GENCODE    := $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
              -gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS))
CUFLAGS     = -O3 -lineinfo -I. -D_GNU_SOURCE -DSDC_CUDA $(if $(CUDNN),-DSDC_CUDNN) \
              -Xcompiler -Wall,-Wextra -Werror all-warnings
CU_COMPILE  = $(NVCC) $(CUFLAGS) $(GENCODE)
LDLIBS     += -L$(CUDA_LIB) -Wl,-rpath,$(CUDA_LIB) -lcublasLt $(if $(CUDNN),-lcudnn) \
              -lcudart_static -ldl -lrt -lpthread -lstdc++
else ifneq ($(EMU),)
EMU_SRC    := $(wildcard tests/emu/*.cc)
LIB_OBJ    += $(EMU_SRC:%=$(CUB)%.o)
EMU_TEST   := $(patsubst %,$(CUB)%.o,$(wildcard tests/emu/test_*.cu))
ifeq ($(EMU),sanitize)
BIN        := -sanitize
CU_SAN     := $(SAN_sanitize)
endif
LDFLAGS    += $(CU_SAN)
LDLIBS     += -lstdc++
CXXFLAGS   ?= -O2 -g $(shell grep -qw fma /proc/cpuinfo && echo -mavx2 -mfma)
# Attention in f32 is where goldens spend their time; with checks that compiles for long.
ifeq ($(CU_SAN),)
$(CUB)kernels/cuda/attn.f32.cu.o $(CUB)kernels/cuda/attn_bwd.f32.cu.o: CXXFLAGS += -O3
endif
CU_COMPILE  = $(CXX) -x c++ -std=c++17 -fopenmp -ffp-contract=off -Wall -Wextra -Werror \
              -Wno-unknown-pragmas -Wno-maybe-uninitialized $(CXXFLAGS) $(CU_SAN) \
              -I. -Itests/emu/include -D_GNU_SOURCE -DSDC_CUDA -DSDC_CUDNN \
              -DEMU_UNIT=$(subst .,_,$(basename $(basename $(notdir $@))))
endif

TOOL_OBJ := $(call objects,$(TOOL_SRC))
TEST_OBJ := $(call objects,$(TEST_SRC)) $(H)/tools/train_network.o $(EMU_TEST)
EMOJI_OBJ := $(call objects,$(EMOJI_SRC))

all: sdc                        ## build ./sdc

sdc: $(B)/sdc$(BIN)
	$Qcp $< $@.tmp && mv $@.tmp $@

$(B)/sdc$(BIN): $(TOOL_OBJ) $(LIB_OBJ)
	@echo "  LD $@"
	$Q$(CC) $(ALLFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(H)/tools/tags_serve.o: tools/tags_page.html

# Tests reach functions of engine/mem.c and engine/io.c through --wrap to make them fail.
WRAP := mem_alloc mem_calloc mem_realloc io_write_all io_sync
$(B)/test$(BIN): $(TEST_OBJ) $(LIB_OBJ)
	@echo "  LD $@"
	$Q$(CC) $(ALLFLAGS) $(LDFLAGS) $(WRAP:%=-Wl,--wrap=%) -o $@ $^ $(LDLIBS)

$(B)/emoji: $(EMOJI_OBJ) $(LIB_OBJ)
	@echo "  LD $@"
	$Q$(CC) $(ALLFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# What the fuzz targets draw from: everything that reads what comes from outside.
FUZZ_OBJ := $(filter $(B)/engine/% $(B)/tokenizer/%,$(LIB_OBJ)) $(B)/tools/options.o $(B)/tools/toml.o
$(B)/libfuzz.a: $(FUZZ_OBJ)
	$Qrm -f $@ && $(AR) rcs $@ $^
$(B)/fuzz_%: $(B)/tests/fuzz/fuzz_%.o $(B)/libfuzz.a
	@echo "  LD $@"
	$Q$(CC) $(ALLFLAGS) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(LDLIBS)

define c_rules
$(1)/%.avx2.o: %.c
	@mkdir -p $$(@D)
	@echo "  CC $$<"
	$$Q$$(CC) $$(CPPFLAGS) $$(ALLFLAGS) $$(AVX2) -MMD -MP -c -o $$@ $$<
$(1)/%.avx512.o: %.c
	@mkdir -p $$(@D)
	@echo "  CC $$<"
	$$Q$$(CC) $$(CPPFLAGS) $$(ALLFLAGS) $$(AVX512) -MMD -MP -c -o $$@ $$<
$(1)/%.avx512bf16.o: %.c
	@mkdir -p $$(@D)
	@echo "  CC $$<"
	$$Q$$(CC) $$(CPPFLAGS) $$(ALLFLAGS) $$(BF16) -MMD -MP -c -o $$@ $$<
$(1)/%.o: %.c
	@mkdir -p $$(@D)
	@echo "  CC $$<"
	$$Q$$(CC) $$(CPPFLAGS) $$(ALLFLAGS) -MMD -MP -c -o $$@ $$<
endef
$(foreach d,$(sort $(B) $(H)),$(eval $(call c_rules,$(d))))
$(CUB)%.cu.o: %.cu
	@mkdir -p $(@D)
	@echo "  CU $<"
	$Q$(CU_COMPILE) -MMD -MP -c -o $@ $<
define cu_typed
$(CUB)%.$(1).cu.o: %.cu
	@mkdir -p $$(@D)
	@echo "  CU $$< $(1)"
	$$Q$$(CU_COMPILE) -DSDC_$(2) -MMD -MP -c -o $$@ $$<
endef
$(eval $(call cu_typed,f32,F32))
$(eval $(call cu_typed,bf16,BF16))
$(eval $(call cu_typed,f16,F16))
$(CUB)%.cc.o: %.cc
	@mkdir -p $(@D)
	@echo "  CXX $<"
	$Q$(CU_COMPILE) -O3 -Wshadow -MMD -MP -c -o $@ $<

# Tests run many short programs: threads that wait in a loop would keep them from the cores.
TEST_JOBS ?= $(shell nproc 2>/dev/null || echo 1)
RUN := OMP_WAIT_POLICY=passive TEST_JOBS=$(TEST_JOBS)
test: sdc $(B)/test             ## build and run the tests
	$Q$(RUN) $(B)/test $(TESTS)

demo: sdc                       ## train a LoRA on cat faces: demo/before_after.png
	$Q./sdc demo

asan ubsan sanitize:            ## the tests under sanitizers (sanitize: both)
	$(MAKE) CONFIG=$@ build/$@/sdc build/$@/test
	$(RUN) SDC_BIN=build/$@/sdc build/$@/test $(TESTS)

# Every op and gradient on the emulated GPU, with two orders of threads; the goldens and
# the pocket model once, some with either order. One core each: make -j2 emu.
# EMU_KIND=sanitize: each op once with sanitizers, in another order, and of the goldens some
# of each kind; make emu-goldens-sanitize: all of them.
EMU_KIND   ?= 1
EMU_END    := $(if $(filter sanitize,$(EMU_KIND)),-sanitize)
ifneq ($(EMU_KIND),sanitize)
EMU_OPS    := emu_ kernels_ small_shapes gemm conv gradients_ optim_ dev_ -int8 -strips_
EMU_1      ?= $(EMU_OPS) golden -golden/sampler
EMU_2      ?= $(EMU_OPS) golden/sampler gpu_
else
EMU_1      ?= emu_ kernels_ dev_ golden/clip golden/unet golden/vae -golden/unet/basic@f16
EMU_2      ?= small_shapes gemm conv gradients_ optim_ golden/format golden/grad/full \
              golden/train/adamw8bit golden/sampler/lcm
endif
EMU_RUN    := $(RUN) OMP_NUM_THREADS=1 SDC_TEST_DEVICE=cuda SDC_BIN=build/emu/sdc$(EMU_END)
emu: emu_seed_1 emu_seed_2      ## CUDA on a CPU: build/emu/sdc, and every kernel's checks
emu_build:
	$(MAKE) EMU=$(EMU_KIND) CONFIG=emu build/emu/sdc$(EMU_END) build/emu/test$(EMU_END)
# Products are cut to the size of the device: of the second one, into the largest tiles.
emu_seed_2: export SDC_EMU_PROCESSORS = 1
emu_seed_%: emu_build
	$Q$(EMU_RUN) SDC_EMU_SEED=$(if $(EMU_END),1)$* build/emu/test$(EMU_END) $(EMU_$*)
emu-goldens-sanitize:           ## every golden on the emulated GPU with sanitizers
	$(MAKE) EMU_KIND=sanitize EMU_1="golden -golden/sampler" EMU_2=golden/sampler emu
emu_sm75: emu_build             ## the same for cards before sm_80, and without the libraries
	$Q$(EMU_RUN) SDC_EMU_SM=75 SDC_EMU_LIBRARIES=0 build/emu/test$(EMU_END) \
	    kernels_attention small_shapes
# FIRST=1: one mutant of each kind, without the tests of what is unbroken.
emu-mutants: emu_build          ## break the kernels one line at a time; make emu must notice
	$(RUN) OMP_NUM_THREADS=1 EMU=1 FROM=emu SDC_TEST_DEVICE=cuda MUTANTS=tests/emu/mutants.txt \
	    sh tests/mutants.sh

REPORT_ARCH ?= sm_80
cuda-report:                    ## with nvcc: registers and spills of every kernel (REPORT_ARCH=sm_80)
	$Q$(if $(CUDA),sh tests/cuda_report.sh "$(NVCC) $(CUFLAGS)" $(REPORT_ARCH) \
	    $(wildcard kernels/cuda/*.cu),$(MAKE) CUDA=1 cuda-report)

# clang's OpenMP tells the sanitizer about its barriers, gcc's does not.
tsan:                           ## the kernels' tests under the thread sanitizer (clang, libomp)
	$(MAKE) CONFIG=$@ CC=clang build/$@/test
	$(RUN) TSAN_OPTIONS=ignore_noninstrumented_modules=1 OMP_NUM_THREADS=3 build/$@/test $(TSAN_TESTS)
TSAN_TESTS ?= small_shapes gemm_blocks kernels_ gradients_ optim_

FUZZ_SECONDS ?= 60
SEED_fuzz_safetensors := tests/data/conformance/safetensors
SEED_fuzz_image := tests/data/image
fuzz:                           ## every fuzz target, FUZZ_SECONDS=60 each (clang)
	$(MAKE) CONFIG=$@ CC=clang CFLAGS="-O1 -g" $(FUZZ:%=build/$@/%)
	$(MAKE) CONFIG=$@ CC=clang $(FUZZ:%=run_%)
run_fuzz_%:
	@mkdir -p build/corpus/$*
	$Qbuild/fuzz/fuzz_$* -max_total_time=$(FUZZ_SECONDS) -timeout=20 -rss_limit_mb=2048 \
	    -verbosity=0 -artifact_prefix=build/corpus/ build/corpus/$* $(SEED_fuzz_$*)
	@echo "fuzz_$*: $(FUZZ_SECONDS) s clean"

$(B)/tags_page: $(B)/tests/browser/tags_page.o $(B)/tests/serve.o
	@echo "  LD $@"
	$Q$(CC) $(ALLFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)
browser: sdc $(B)/tags_page      ## the page of `sdc tags DIR serve` in a real browser (chromium)
	$Q$(B)/tags_page

mutants:                        ## break the sources one line at a time; the tests must notice
	sh tests/mutants.sh

bench: sdc                      ## speed of each op on the layers of SD 1.5
	./sdc bench ops --dtype f32

emoji: $(B)/emoji               ## the program that draws the pocket model's data set

SHARE = $(DESTDIR)$(PREFIX)/share
POCKET := $(wildcard models/pocket/pocket.safetensors models/pocket/prompts*.txt models/pocket/OFL.txt)
install: sdc                    ## PREFIX=/usr/local, DESTDIR=
	install -d $(DESTDIR)$(PREFIX)/bin $(SHARE)/doc/sdc $(SHARE)/sdc/pocket
	install -m 755 sdc $(DESTDIR)$(PREFIX)/bin/sdc
	install -m 644 README.md LICENSE tokenizer/clip_merges.LICENSE.txt $(SHARE)/doc/sdc
	install -m 644 $(POCKET) $(SHARE)/sdc/pocket
	cp -R models/pocket/cats models/pocket/held models/pocket/tagger $(SHARE)/sdc/pocket

clean:                          ## remove build/, demo/ and ./sdc
	rm -rf build demo sdc

help:                           ## this list
	@grep -E '^[a-z][a-z ]*:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 28

.PHONY: all test demo asan ubsan sanitize tsan emu emu_build emu-goldens-sanitize emu-mutants fuzz \
        mutants browser bench emoji install clean help
.SECONDARY:
-include $(LIB_OBJ:.o=.d) $(TOOL_OBJ:.o=.d) $(TEST_OBJ:.o=.d) $(EMOJI_OBJ:.o=.d)
-include $(FUZZ:%=$(B)/tests/fuzz/%.d)
