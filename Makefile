PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SUITES_STAMP := $(VENV)/.installed-suites
UNFINISHED := $(VENV)/.installing
LOG := $(VENV)/install.log
DOCS_VENV := build/docs-venv
DOCS_STAMP := $(DOCS_VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

# $(call ask,EXPRESSION): what $(PYTHON) says of itself, nothing if it is not there.
ask = $(shell $(PYTHON) -c 'import sys; print($(1))' 2>/dev/null || :)
version = $(or $(call ask,sys.version.split()[0]),not there)
refusal = safex needs Python 3.11 or newer, and $(PYTHON) is $(version): \
  try `make $(or $(MAKECMDGOALS),install) PYTHON=python3.12`

.DEFAULT_GOAL := help
.PHONY: help install install-suites run test test-slow test-suites test-slurm \
  test-faults lint format types docs gallery ci clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Install the pinned packages and safex into .venv

install-suites: $(SUITES_STAMP) ## Install Safety-Gymnasium and Bullet-Safety-Gym as well

run: $(STAMP) ## Swing the pendulum up with a learned model; more options in ARGS="key=value ..."
	$(BIN)/python experiments/launcher_pendulum.py method=minmax model=bnn $(ARGS)

test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(STAMP) ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

test-suites: $(SUITES_STAMP) ## Run the tests that need the safety suites
	$(BIN)/python -m pytest tests/test_suites.py $(ARGS)

test-slurm: $(STAMP) ## Run the tests that need SLURM, on one that is started for them
	bash .ci/slurm $(BIN)/python -m pytest -n 0 -m slurm $(ARGS)

test-faults: $(STAMP) ## Kill, damage and starve runs; parts in ARGS="--only kills"
	$(BIN)/python benchmarks/faults.py $(ARGS)

lint: $(STAMP) ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(STAMP) ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

types: $(STAMP) ## Check the types
	$(BIN)/mypy

docs: $(DOCS_STAMP) ## Build the documentation into build/site; broken links are errors
	$(DOCS_VENV)/bin/python docs/build_site.py

gallery: $(STAMP) ## Make the figures of docs/gallery.md; from other runs with ARGS=FOLDER
	$(BIN)/python benchmarks/gallery.py $(ARGS)

ci: ## Check everything in a fresh environment, as CI does
	@PYTHON="$(PYTHON)" bash .ci/run

clean: ## Remove .venv, caches and build outputs (never results)
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find safex experiments benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

# The stamp is written last; an environment whose first installation was cut short is
# made afresh, one that this file did not make is never removed.
$(STAMP): requirements.txt pyproject.toml
	$(if $(filter True,$(call ask,sys.hexversion >= 0x30b0000)),,$(error $(refusal)))
	@echo "Installing the pinned packages into $(VENV) (once, about two minutes) ..."
	@if [ -e $(UNFINISHED) ]; then rm -rf $(VENV); fi
	@if [ ! -e $(VENV) ]; then mkdir -p $(VENV) && touch $(UNFINISHED) && $(PYTHON) -m venv $(VENV); fi
	@{ $(PIP) install -r requirements.txt \
	  && $(PIP) install --no-deps --no-build-isolation -e . ; \
	} >$(LOG) 2>&1 || { tail -n 40 $(LOG) >&2; exit 1; }
	@rm -f $(UNFINISHED) && touch $@

# Without dependencies: both suites ask for versions that no longer install.
$(SUITES_STAMP): $(STAMP) requirements-suites.txt
	@echo "Installing the safety suites into $(VENV) ..."
	@$(PIP) install --no-deps -r requirements-suites.txt >$(LOG) 2>&1 \
	  || { tail -n 40 $(LOG) >&2; exit 1; }
	@touch $@

# The pages of the API import safex, so this environment has all of it and Sphinx.
$(DOCS_STAMP): requirements.txt requirements-docs.txt
	$(if $(filter True,$(call ask,sys.hexversion >= 0x30b0000)),,$(error $(refusal)))
	@echo "Installing the pinned packages into $(DOCS_VENV) (once, about two minutes) ..."
	@rm -rf $(DOCS_VENV) && mkdir -p build && $(PYTHON) -m venv $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip --quiet --disable-pip-version-check --no-input \
	  install -r requirements.txt -r requirements-docs.txt
	@touch $@
