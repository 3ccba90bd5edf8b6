# The README's two commands. `make quickstart` runs the main job, `make test` the whole check.

PYTHON ?= python3
BIN := .venv/bin
THREADS ?= 2

.venv/ready: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints-cpu.txt -e '.[dev]'
	touch $@

.PHONY: quickstart test check

quickstart: .venv/ready
	OMP_NUM_THREADS=$(THREADS) $(BIN)/forethought run recipes/quickstart.yaml

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope
