# Two commands for a fresh machine with Python 3.11 and nothing else: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet

.PHONY: demo web test test-training test-models test-media test-server test-rest smoke paper-small sanitize test-kernels lint format bench bench-gpu parity fuzz clean

demo: $(VENV)/demo.installed
	@mkdir -p out
	@$(BIN)/unsilent generate demo/cat.mp4 -o out/cat.mp4 --picture
	@echo "The video with its new sound: $(CURDIR)/out/cat.mp4"
	@echo "What was made, drawn:         $(CURDIR)/out/cat.png"

# The page on this machine, in a browser.
web: $(VENV)/web.installed
	@$(BIN)/unsilent web

# The suite runs as five processes of one thread each and the smoke chain, two at a time, the longest first; each prints its results at its
# end. Bytecode is kept, because many tests start processes.
export PYTHONDONTWRITEBYTECODE :=
TRAINING := tests/train tests/benchmarks
MODELS := tests/checkpoints tests/models tests/published tests/jobs tests/evaluation
MEDIA := tests/media tests/cli
SERVER := tests/server tests/end_to_end tests/editing tests/integrations tests/runs
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -rs -m "not slow and not gpu and not published and not cluster"
test: lint
	@echo "Running the test suite (about ten minutes) ..."
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-rest test-training test-server smoke test-models test-media

test-training:
	@$(PYTEST) $(TRAINING)

test-models:
	@$(PYTEST) $(MODELS)

test-media:
	@$(PYTEST) $(MEDIA)

test-server:
	@$(PYTEST) $(SERVER)

test-rest:
	@$(PYTEST) $(addprefix --ignore=,$(TRAINING) $(MODELS) $(MEDIA) $(SERVER))

# The whole training chain on made-up clips, in about a minute.
smoke: $(VENV)/test.installed
	@$(BIN)/python runs/smoke/chain.py

# The C extensions under sanitizers, built into a copy of the package. ASan and UBSan cover both files: memory errors, undefined behaviour.
# TSan covers _transformer.c: data races of its jobs, phases and workers, but no fork, which TSan does not support. It does not cover
# _groupnorm.c, because libgomp's barriers are invisible to it. All take about six minutes.
# Kernels for AVX-512 are covered only on such a processor. detect_leaks=0, because Python itself never frees some memory; -s, because
# pytest would swallow the report of a process that a sanitizer ends.
SANITIZE_TESTS = OMP_NUM_THREADS=1 PYTHONPATH=$(1) LD_PRELOAD=$$(gcc -print-file-name=$(2)) $(3) $(BIN)/pytest -s $(4)
sanitize: build/asan build/tsan
	@$(call SANITIZE_TESTS,build/asan,libasan.so,ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1,$(wildcard tests/speed/test_cpu_*.py))
	@$(call SANITIZE_TESTS,build/tsan,libtsan.so,TSAN_OPTIONS=halt_on_error=1,tests/speed/test_cpu_transformer.py -k "not forked")

build/asan: SANITIZERS = -fsanitize=address,undefined -fno-sanitize-recover=all
build/tsan: SANITIZERS = -fsanitize=thread
build/asan build/tsan: $(wildcard unsilent/speed/*) $(VENV)/test.installed
	@rm -rf $@ && mkdir -p $@ && cp -r unsilent $@
	@for name in _transformer _groupnorm; do \
	  gcc -shared -fPIC -g -O1 -fno-omit-frame-pointer -ffinite-math-only $(SANITIZERS) unsilent/speed/$$name.c -lm -lpthread \
	    -o $@/unsilent/speed/$$name$$($(BIN)/python -c "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))") || exit 1; done

# The GPU kernels in Triton's interpreter on a CPU. Not part of `make test`: Triton takes 1 GB and a minute to install, the tests several.
test-kernels: build/triton
	@OMP_NUM_THREADS=1 TRITON_INTERPRET=1 PYTHONPATH=build/triton $(BIN)/pytest tests/speed/test_gpu_kernels.py

build/triton: | $(VENV)/test.installed
	@$(PIP) --target $@ triton

# All tables and figures of the paper in small. MATERIAL is a folder with sounds.csv, images.csv and clips.csv.
PAPER = 1 2 3 4 5 fig4 fig5 fig6 11 12 14 16 17 18 19 20
paper-small: $(VENV)/test.installed
	@test -n "$(MATERIAL)" || { echo "Name the material: make paper-small MATERIAL=FOLDER"; exit 2; }
	@$(BIN)/python runs/paper/table.py $(PAPER) --everyday $(MATERIAL) --clips 6 --samples 2 || test $$? = 3

lint: $(VENV)/test.installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell

format: $(VENV)/test.installed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# The paper's model against the released algorithm and the floor, four takes, and 212 features; the default model; starting up. Seven minutes.
bench: $(VENV)/test.installed
	@$(BIN)/python benchmarks/speed.py
	@$(BIN)/python benchmarks/speed.py --precision int8 --takes 1 4 --released 0
	@$(BIN)/python benchmarks/speed.py --precision int8 --features 212 --released 0
	@$(BIN)/python benchmarks/generate.py demo/cat.mp4
	@$(BIN)/python benchmarks/startup.py

# On a machine with a GPU.
bench-gpu: $(VENV)/test.installed
	@$(BIN)/python benchmarks/speed.py --device cuda --takes 1 4 16 64

# REFERENCE may name a folder with the authors' complete numbers; otherwise those in tests/fixtures are compared.
parity: $(VENV)/test.installed
	@$(BIN)/python benchmarks/parity.py $(REFERENCE)

# Damaged files against everything that reads files, half an hour at most; cases that fail are written to build/fuzz. Options: FUZZ="--seed 2".
fuzz: $(VENV)/test.installed
	@$(BIN)/python benchmarks/fuzz.py $(FUZZ)

$(VENV)/bin/python:
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/demo.installed: pyproject.toml $(wildcard unsilent/speed/*.c) | $(VENV)/bin/python
	@echo "Installing unsilent (a few minutes the first time) ..."
	@$(PIP) -e ".[plot]"
	@touch $@

$(VENV)/web.installed: $(VENV)/demo.installed
	@$(PIP) -e ".[plot,serve]"
	@touch $@

$(VENV)/test.installed: pyproject.toml $(wildcard unsilent/speed/*.c) | $(VENV)/bin/python
	@echo "Installing unsilent with its development tools (a few minutes the first time) ..."
	@$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/demo.installed $(VENV)/web.installed

clean:
	@rm -rf out build *.egg-info .pytest_cache .ruff_cache
