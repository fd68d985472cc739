# Every target sets up what it needs in .venv; a second run finds it there and starts at once.
#   make test ARGS="tests/density -x"     arguments for the program behind the target
#   make test PARALLEL=                   the tests one after another, in one process
#   make tour PYTHON=python3.12           the Python (3.11 or newer) that .venv is made from
#   make tour PIP_ARGS="..."              arguments for pip, for example an extra index with torch wheels without CUDA

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=
PARALLEL ?= --numprocesses auto --maxprocesses 8 --dist loadfile
VENV := .venv
BIN := $(VENV)/bin
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help tour test test-slow lint bench clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1  /p' Makefile | awk '{name = $$1; $$1 = ""; printf "  make %-10s%s\n", name, $$0}'

tour: $(VENV)/.core ## learn digits and drawn scenes, write tour/index.html
	$(BIN)/ptheta tour $(ARGS)

test: $(VENV)/.dev ## the tests, without the slow ones
	$(BIN)/pytest $(PARALLEL) $(ARGS)

test-slow: $(VENV)/.dev ## the longer proofs
	$(BIN)/pytest -m slow --timeout 7200 $(ARGS)

lint: $(VENV)/.dev ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.bench ## our figures beside others', into benchmarks/results
	$(BIN)/python benchmarks/density.py $(ARGS)

clean: ## remove caches and build files; runs/, tour/ and .venv stay
	rm -rf build dist ./*.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV)

# An environment works only in the folder where it was made: in a moved or copied checkout it is made again.
MOVED := $(shell grep -s '^command = ' $(VENV)/pyvenv.cfg | grep -vF ' $(CURDIR)/$(VENV)')
ifneq ($(MOVED),)
.PHONY: $(VENV)/.made
endif

# Whatever environment is there and works is kept; a half-made one is made again.
$(VENV)/.made:
	@if $(if $(MOVED),false,true) && $(BIN)/python -c '$(NEW_ENOUGH)' 2>/dev/null \
	    && $(BIN)/python -m pip --version >/dev/null 2>&1; then echo "using the environment in $(VENV)"; else \
	  $(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	    echo "ptheta needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo absent). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }; \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "$(PYTHON) cannot make environments. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }; \
	  echo "making $(VENV) with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv --clear $(VENV); fi
	@touch $@

$(VENV)/.core: WHAT := .[control]
$(VENV)/.dev: WHAT := .[dev]
$(VENV)/.bench: WHAT := .[dev,bench]
$(VENV)/.core $(VENV)/.dev $(VENV)/.bench: $(VENV)/.made pyproject.toml requirements/tested.txt
	@echo "installing '$(WHAT)' into $(VENV), versions as in requirements/tested.txt (some minutes the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c requirements/tested.txt -e '$(WHAT)'
	@touch $(VENV)/.core $@
