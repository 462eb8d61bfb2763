# Everything that this repository does. `make` alone lists the targets.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# make demo FILE=conversation.json; without FILE the demo brings a small conversation of its own.
FILE      ?=
DEMO_DIR  := .demo
DEMO      ?= $(BIN)/python -m dgent.cli.demo

# make test ARGS="-k history -x"; WORKERS=0 runs in one process.
ARGS      ?=
WORKERS   ?= 3

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test faults bench check format docs wheel-test clean

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is made last and depends on what decides about versions: an interrupted installation starts anew.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "D-gent needs Python 3.11 or newer: make PYTHON=python3.11")'
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing what constraints.txt names"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

install: $(READY)  ## make .venv with everything in it

demo: $(READY)  ## import a conversation and look at both tracks (FILE=conv.json for your own)
	@rm -rf $(DEMO_DIR)
	@KGENTS_DATA_DIR=$(DEMO_DIR) KGENTS_CONFIG_DIR=$(DEMO_DIR) $(DEMO) $(FILE)

test: $(READY)  ## run every test, on SQLite and on a real PostgreSQL (ARGS="-k history")
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 10 -rfEs $(ARGS)

faults: $(READY)  ## every law and promise at full size: kills, cut connections, full disks (an hour and more)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --hypothesis-profile full --durations 10 $(ARGS)

bench: $(READY)  ## measure every operation against the bare driver, in one run (ARGS="--plot bench.png")
	@$(BIN)/python -m benchmarks $(ARGS)

check: $(READY)  ## lint, format, types, floors, what is declared, and whether the generated docs are fresh
	@$(BIN)/ruff check --quiet --output-format concise .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo --cache-dir .import_linter_cache > .import_linter.log || { cat .import_linter.log; exit 1; }
	@$(BIN)/deptry --no-ansi . > .deptry.log 2>&1 || { cat .deptry.log; exit 1; }
	@$(BIN)/python docs/generate.py --check
	@echo "clean: ruff, mypy, import-linter, deptry, docs"

format: $(READY)  ## let ruff format and mend what it can
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix .

docs: $(READY)  ## write the tables of settings and errors anew
	@$(BIN)/python docs/generate.py

wheel-test: $(READY)  ## build the wheel and use it in a folder with decoys
	@$(BIN)/python -m pytest tests/wheel $(ARGS)

clean:  ## remove what was made, .venv included
	@rm -rf $(VENV) $(DEMO_DIR) build dist .mypy_cache .ruff_cache .import_linter_cache .import_linter.log .deptry.log .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
