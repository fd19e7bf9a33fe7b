# The two commands are `make run` and `make test`; both set up what they need on a fresh Debian or Ubuntu machine.
#   make run ARGS="--blocks 500 --json"    set-up of the daemon, then the demo
#   make test                              set-up of everything, then linters, types and the whole test suite
#   make test-interop                      set-up of GNU Radio, UHD and TensorFlow, then the tests against them
#   make fuzz ARGS="--executions 10000"    set-up of everything, then every parser on input nobody meant it to get

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: run test test-interop fuzz setup setup-all setup-interop lint types imports unit kernels-without-jit constraints clean

run: setup
	@$(BIN)/twinbeam demo $(ARGS)

test: setup-all lint types imports unit kernels-without-jit

# UHD's bridge is tested once more, by the Python that it is made for.
test-interop: setup-all setup-interop
	TWINBEAM_INTEROP=1 TWINBEAM_USRP_PYTHON=/usr/bin/python3 $(BIN)/pytest tests/interop tests/ingest/test_usrp_bridge.py

# How much, of what and from which seed: docs in tests/fuzz/__main__.py. Inputs that fail are kept in build/fuzz.
fuzz: setup-all
	$(BIN)/python -m tests.fuzz $(ARGS)

setup: $(VENV)/.daemon

setup-all: $(VENV)/.everything

setup-interop: $(VENV)-tensorflow/.interop

$(VENV)/.daemon: pyproject.toml constraints.txt
	@deploy/setup.sh $(PYTHON) $(VENV) daemon

$(VENV)/.everything: pyproject.toml constraints.txt
	@deploy/setup.sh $(PYTHON) $(VENV) everything

$(VENV)-tensorflow/.interop: pyproject.toml deploy/setup.sh
	@deploy/setup.sh $(PYTHON) $(VENV)-tensorflow interop

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

imports:
	$(BIN)/lint-imports

unit:
	$(BIN)/pytest -n 2 --dist loadgroup --durations=15 $(ARGS)

# Kernels run as the plain Python that they are written in, against the same tests; but for the PSSs' filters, which whole
# searches then have done by NumPy (tests/ingest/nr/conftest.py).
kernels-without-jit:
	NUMBA_DISABLE_JIT=1 $(BIN)/pytest -n 2 --durations=15 -m kernel

# Pin what an unconstrained installation resolves to today; run it to move to newer versions.
constraints:
	@deploy/constraints.sh $(PYTHON)

clean:
	rm -rf $(VENV) $(VENV)-tensorflow build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
