# Everything a person or CI runs. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

SEED ?= 1
DETECTOR ?= auto
DATA ?=
DATASETS ?=
DETECTORS ?=
JOBS ?= 2
KILLS ?= 50
SERIES ?= 500
MINUTES ?= 3
PAGE ?=
# Where torch's CPU build comes from, for machines with internet:
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

BIN := .venv/bin
STAMP := .venv/.installed
# One torch thread per process: tests and workers are processes, and threads of several
# processes on the same cores only wait for each other.
export OMP_NUM_THREADS ?= 1

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(STAMP) ## Make .venv with Python 3.11 or newer and the tested versions of everything

$(STAMP): pyproject.toml constraints.txt
	@python=$$(for each in $(PYTHON) python3.11 python3 python3.12 python3.13; do \
	    if $$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$each; break; fi; \
	done); \
	if [ -z "$$python" ]; then \
	    echo "no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	[ -x $(BIN)/python ] || $$python -m venv .venv
	@# torch first, so that an index given for it is asked for nothing else.
	$(BIN)/python -m pip install -q -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

.PHONY: demo
demo: $(STAMP) ## Eight simulated weeks through the whole pipeline, under demo/ (SEED=, DETECTOR=)
	$(BIN)/anomaly demo --seed $(SEED) --detector $(DETECTOR)

.PHONY: test
test: $(STAMP) ## Run the tests (JOBS= processes)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not soak"

.PHONY: lint
lint: $(STAMP) ## Check style, formatting and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.PHONY: types
types: $(STAMP) ## Check types
	$(BIN)/mypy

.PHONY: bench
bench: $(STAMP) ## Measure throughput and memory; takes minutes, wants a quiet machine
	for each in benchmarks/bench_*.py; do $(BIN)/python $$each; done

.PHONY: quality
quality: $(STAMP) ## Measure every detector on labelled data beside other libraries (DATA=, DATASETS=, DETECTORS=)
	@if [ -z "$(DATA)" ]; then \
	    echo "name the folder of labelled data sets: make quality DATA=path/to/data [DATASETS=nab,mscloud]" >&2; exit 1; \
	fi
	$(BIN)/python benchmarks/quality.py --data "$(DATA)" --datasets "$(DATASETS)" --detectors "$(DETECTORS)" --jobs $(JOBS)

.PHONY: soak
soak: $(STAMP) ## Kill daemons and databases, tick for long (KILLS=, SERIES=, MINUTES=, SEED=, JOBS=, PAGE=)
	KILLS=$(KILLS) SERIES=$(SERIES) MINUTES=$(MINUTES) SEED=$(SEED) PAGE=$(PAGE) \
	    $(BIN)/python -m pytest -n $(JOBS) -m soak --timeout 14400

.PHONY: up
up: ## Start PostgreSQL and the daemon with docker compose
	docker compose up --build --detach
