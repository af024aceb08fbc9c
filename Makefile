# Everything starts here: `make` lists the targets. Each one that needs Python first sees to .venv, once.
#
#   PYTHON=/path/to/python3.12   the interpreter for .venv (else the first of those below that is 3.11 or newer)
#   ARGS="..."                   what to hand on: `make test ARGS="-k layers -x"`, `make demo ARGS=--help`

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS   += --no-builtin-rules --no-print-directory
.DELETE_ON_ERROR:

PYTHON   ?=
ARGS     ?=
ROUNDS   ?= 1000
SEED     ?= 0
PYTHONS  := $(or $(PYTHON),python3.11 python3.12 python3.13 python3)
BIN      := .venv/bin
READY    := .venv/.ready
PIP      := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCK     := requirements/lock.txt
PIP_TOOLS := pip-tools==7.6.2

.PHONY: help setup demo unit test test-keras mutants sweep soak check fix bench docs lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv and install cloister in it
	@:

demo: $(READY)  ## run the main job: three hospitals, an aggregator and a researcher
	@$(BIN)/cloister demo $(ARGS)

# What starts no node and takes little of a processor. One file's tests stay in one process, with what they share; what
# pytest makes of the files is kept, whatever the environment says, since that takes a third of the time.
unit: $(READY)  ## run the quick tests, on two processors
	@HYPOTHESIS_PROFILE=dev PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -m "not slow and not e2e" --ignore tests/e2e --ignore tests/models --ignore tests/examples -n 2 --dist loadfile $(ARGS)

test: $(READY)  ## run the tests
	@HYPOTHESIS_PROFILE=ci $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

# TensorFlow stays out of .venv: the two processes share files, and nothing else.
test-keras: $(READY) build/keras/.ready  ## run Keras' tests, with TensorFlow in a venv of its own
	@HYPOTHESIS_PROFILE=ci $(BIN)/python -m pytest tests/keras $(ARGS)

build/keras/.ready: requirements/keras.txt
	@python=$$($(find_python)); "$$python" -m venv build/keras
	@build/keras/bin/python -m pip --disable-pip-version-check --quiet install --requirement $<
	@touch $@

mutants: $(READY)  ## break each line that security rests on, and see that a unit test notices
	@$(BIN)/python -m tools.mutants $(ARGS)

sweep: $(READY)  ## look among jobs and pairs of them for a mean that is one row's or one owner's
	@OMP_NUM_THREADS=1 $(BIN)/python -m tools.sweep $(ARGS)

soak: $(READY)  ## run a study whose processes are killed and cut off: ROUNDS=1000 SEED=0
	@OMP_NUM_THREADS=1 $(BIN)/python -m tools.soak --rounds $(ROUNDS) --seed $(SEED) $(ARGS)

check: $(READY)  ## formatting, lint and types
	@$(BIN)/ruff format --check --quiet . || { echo "some files are not formatted: run 'make fix'" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

fix: $(READY)  ## format, and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY)  ## measure, side by side with plain PyTorch and plain TLS
	@$(BIN)/python -m bench $(ARGS)

# Strict is more than --strict: whatever is said, about a docstring for instance, fails the build too; and so does what
# tools/check_pages.py finds.
docs: $(READY)  ## build the pages into site/, strictly
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; rm -rf site; status=0; \
	$(BIN)/zensical build --strict --clean >"$$log" 2>&1 || status=1; \
	sed -E -e 's/\x1b\[[0-9;]*m//g' -e '/^Traceback/,/^[A-Za-z]+Error/{/^[A-Za-z]+Error/!d}' "$$log" \
	    | grep -vE '^(Build (started|finished.*)|No issues found|)$$' >&2 && status=1; \
	$(BIN)/python -m tools.check_pages || status=1; \
	exit $$status
	@echo "site/index.html"

# Keeps the pins that still fit; `make lock ARGS=--upgrade` takes what is newest.
lock:  ## resolve pyproject.toml into requirements/lock.txt
	@python=$$($(find_python)); "$$python" -m venv build/lock
	@build/lock/bin/python -m pip --disable-pip-version-check --quiet install '$(PIP_TOOLS)'
	@build/lock/bin/pip-compile --quiet --no-header --no-emit-options --strip-extras --annotation-style line \
	    --extra torch --extra keras --extra parquet --extra demo --extra llm --extra noise --extra plots --extra dev \
	    --constraint requirements/torch.txt --unsafe-package torch \
	    --output-file $(LOCK) $(ARGS) pyproject.toml
	@{ echo "# Made by 'make lock' from pyproject.toml: all that cloister, torch, Keras, the demo, language models, noise,"; \
	   echo "# plots and the tools need."; \
	   echo "# torch itself is named in torch.txt."; \
	   grep -E '^[a-z0-9]' $(LOCK); } > $(LOCK).new && mv $(LOCK).new $(LOCK)
	@! grep -E '^(nvidia|triton|cuda|torch=)|/' $(LOCK) \
	    || { echo "$(LOCK) names a place or a CUDA package; see the lines above" >&2; exit 1; }
	@echo "$(LOCK): $$(grep -c == $(LOCK)) packages"

clean:  ## remove .venv and everything else that make made
	@rm -rf .venv build dist site .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone, so that its line decides which build is taken; then the rest, as locked; then the
# package itself, as a link to this folder.
$(READY): pyproject.toml requirements/torch.txt $(LOCK)
	@python=$$($(find_python)); echo "setting up .venv with $$("$$python" -V): a minute or two the first time" >&2; \
	test -x $(BIN)/python || "$$python" -m venv .venv \
	    || { rm -rf .venv; echo "the module venv is missing (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(PIP) install --constraint $(LOCK) --requirement requirements/torch.txt
	@$(PIP) install --requirement $(LOCK)
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

define find_python
for candidate in $(PYTHONS); do \
    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
    then echo "$$candidate"; exit 0; fi; done; \
echo "cloister needs Python 3.11 or newer; tried: $(PYTHONS). Name yours: make PYTHON=/path/to/python3" >&2; exit 1
endef
