# `make demo`, `make test`, `make check`, `make bench`, `make prove`: each sets up everything it needs first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROVE_S ?= 600
STAMP := $(VENV)/.ready

.PHONY: setup browser demo test check bench prove format clean

setup: $(STAMP)

$(STAMP): requirements/dev.txt pyproject.toml tools/setup.sh
	PYTHON=$(PYTHON) bash tools/setup.sh $(VENV)
	touch $@

browser: setup
	bash tools/browser.sh

demo: setup
	$(BIN)/tidegate demo

test: setup browser
	$(BIN)/pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/run.py

# Power cuts for PROVE_S seconds (PROVE_S=3600 make prove), each recording with a new seed, which is printed.
prove: setup
	$(BIN)/python tests/rig/power.py $(PROVE_S)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .demo dist
