# `make demo` and `make test` do all their own set-up; they need Python 3.11, 3.12 or 3.13, and a network once.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# One thread per test process: two processes share the cores, and sums come out in the same order everywhere.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-nightly check venv lock format architecture clean

help: ## Say what each target does.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(READY) ## Compress an embedded network without its data, into runs/demo (about 5 minutes).
	$(BIN)/reverie demo --out runs/demo

test: check ## Check style and types, then run the tests.
	$(PYTEST)

test-nightly: check ## The same, with the tests that take minutes each.
	$(PYTEST) -m ""

check: $(READY) ## Check style and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

venv: $(READY) ## Build .venv with the locked versions.

$(READY): requirements.lock pyproject.toml
	@python=$$(sh scripts/find-python) && \
	  { $(BIN)/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	    || "$$python" -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --quiet --editable .
	$(BIN)/python -m pip check
	@touch $@

lock: $(READY) ## Resolve the dependencies of pyproject.toml anew into requirements.lock.
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --universal --python-version 3.11 --fork-strategy fewest --extra dev --extra imagenet \
	  --extra openvino --extra timm \
	  --no-emit-index-url --custom-compile-command 'make lock' --upgrade --output-file requirements.lock pyproject.toml

format: $(READY) ## Format the code, and apply the safe fixes.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

architecture: $(READY) ## Draw docs/architecture.md anew from the imports.
	$(BIN)/python docs/make_architecture.py

clean: ## Remove the environment, caches and runs.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis runs dist build
