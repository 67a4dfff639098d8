# On a fresh machine `make figures` does everything: environment, runs, figures, claims, report.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PRESET ?= default
WORKERS ?= 2
FIGURE ?= null
ARGS ?=

READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup figures report smoke verify bench gpu test system-tests coverage numeric lint typecheck site format clean

help:  ## this list
	@echo 'make <target> [PYTHON=$(PYTHON)] [PRESET=$(PRESET)] [WORKERS=$(WORKERS)] [FIGURE=rates,...]'
	@awk -F ':.*## ' '/^[a-z-]+:.*##/ {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## the environment in .venv, with the tested versions

# The stamp is the last thing written: an installation that was interrupted is taken up again.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'make: Python 3.11 or newer is needed; name one with PYTHON=...' >&2; exit 1; }
	@echo 'installing into $(VENV), which takes a few minutes'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,optimizers]'
	@touch $@
	@echo 'ready; now type: source $(BIN)/activate; implicit-bias optimizer=muon'

figures: $(READY)  ## every figure, its CSV, the claims, the report (or FIGURE=...)
	$(BIN)/python -m implicit_bias.report preset=$(PRESET) workers=$(WORKERS) only=$(FIGURE)

report: figures  ## the same

smoke: $(READY)  ## the figures in small, in two or three minutes
	$(BIN)/python -m implicit_bias.report preset=smoke workers=$(WORKERS)

verify: $(READY)  ## every table made again and compared (or FIGURE=...)
	$(BIN)/python -m implicit_bias.report verify=true preset=$(PRESET) workers=$(WORKERS) only=$(FIGURE)

bench: $(READY)  ## speed beside plain PyTorch loops (ARGS="size=100x10x25": a part)
	$(BIN)/python -m implicit_bias.bench $(ARGS)

gpu: $(READY)  ## on a GPU: tests, speed, networks (or ARGS="tests bench smoke")
	$(BIN)/python scripts/gpu.py $(ARGS)

test: $(READY)  ## all tests (ARGS="-m 'not slow'" for the quick ones)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

system-tests: $(READY)  ## those on a Slurm of their own and in a browser (as root)
	.ci/system-packages
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m system $(ARGS)

coverage: $(READY)  ## all tests, and which lines they run; fails under 90 percent
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -n $(WORKERS) --dist worksteal $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered

numeric: $(READY)  ## the tests of rounding under each instruction set there is
	$(BIN)/python scripts/numeric_tests.py -n $(WORKERS) $(ARGS)

lint: typecheck  ## style, spelling, types, and which package may import which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/lint-imports

typecheck: $(READY)  ## types alone
	$(BIN)/mypy

site: $(READY)  ## the documentation as a site in site/, warnings being errors
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --config-file .ci/site/mkdocs.yml

format: $(READY)  ## mend style and formatting in place
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove runs, sweeps, caches; figures and the environment stay
	@rm -rf results/runs results/sweeps results/cache build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find implicit_bias scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
