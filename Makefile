# The two commands are `make run` and `make test`; both set up what they need on a fresh Debian or Ubuntu machine.
#   make run ARGS="--blocks 500 --json"    set-up of the daemon, then the demo
#   make test                              set-up of everything, then linters, types and the whole test suite

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: run test setup setup-all lint types imports unit kernels-without-jit constraints clean

run: setup
	@$(BIN)/twinbeam demo $(ARGS)

test: setup-all lint types imports unit kernels-without-jit

setup: $(VENV)/.daemon

setup-all: $(VENV)/.everything

$(VENV)/.daemon: pyproject.toml constraints.txt
	@deploy/setup.sh $(PYTHON) $(VENV) daemon

$(VENV)/.everything: pyproject.toml constraints.txt
	@deploy/setup.sh $(PYTHON) $(VENV) everything

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

imports:
	$(BIN)/lint-imports

unit:
	$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

# Kernels run as the plain Python that they are written in, against the same tests.
kernels-without-jit:
	NUMBA_DISABLE_JIT=1 $(BIN)/pytest -n 2 -m kernel

# Pin what an unconstrained installation resolves to today; run it to move to newer versions.
constraints:
	@deploy/constraints.sh $(PYTHON)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
