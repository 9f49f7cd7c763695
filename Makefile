# `make` alone lists the targets. Everything runs in .venv, which `make install` builds from the hashed lock.

PYTHON ?= python3
UV     ?= uv
ARGS   ?=
JOBS   ?= 2

BIN   := .venv/bin
STAMP := .venv/.installed
LOCK  := requirements/dev.lock

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install lock demo serve lint test crash clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Build .venv from the lock (PYTHON=python3.12 picks the interpreter)

# Hashes decide what is installed, whichever index or folder of wheels pip is configured to look in.
$(STAMP): $(LOCK) pyproject.toml
	@$(BIN)/python -c '' 2>/dev/null \
	  || { $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	       || { echo "Python 3.11 or newer is needed: make install PYTHON=python3.12" >&2; exit 1; } \
	     && $(PYTHON) -m venv --clear .venv; }
	@echo "Installing into .venv: torch with its CUDA libraries is a few gigabytes, which takes minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

COMPILE := compile --quiet --universal --python-version 3.11 --generate-hashes \
           --no-emit-index-url --no-header --no-annotate

lock: ## Pin the dependencies of pyproject.toml again (needs uv; ARGS=--upgrade for newer versions)
	@command -v $(UV) >/dev/null || { echo "uv is needed: pip install uv" >&2; exit 1; }
	$(UV) pip $(COMPILE) $(ARGS) pyproject.toml --extra worker --extra s3 --extra fid --extra dev -o $(LOCK)
	$(UV) pip $(COMPILE) $(ARGS) pyproject.toml --extra worker --extra s3 --extra fid -c $(LOCK) -o requirements/worker.lock
	$(UV) pip $(COMPILE) $(ARGS) pyproject.toml --extra s3 -c $(LOCK) -o requirements/service.lock
	echo hatchling | $(UV) pip $(COMPILE) $(ARGS) - -c $(LOCK) -o requirements/build.lock

demo: $(STAMP) ## Show one erasure from training to certificate (ARGS=... are passed on)
	$(BIN)/unlearn demo $(ARGS)

serve: $(STAMP) ## Run the API and one worker on this machine (ARGS="--port 9000 ...")
	$(BIN)/unlearn serve $(ARGS)

lint: $(STAMP) ## Check style, types and the arrows between modules
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A file's tests stay in one process, which shares what they start; the long files come first.
test: lint ## Lint, then run every test (ARGS="-k name" narrows, JOBS=n processes)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

crash: $(STAMP) ## Play the whole crash matrix and write docs/crash-matrix.md (ARGS="-n 4": more at a time)
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT; \
	  CRASH_RESULTS=$$folder $(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS) tests/crash/matrix.py; code=$$?; \
	  $(BIN)/python -m tests.crash.table $$folder && exit $$code

clean: ## Remove caches and build outputs; .venv and var stay
	rm -rf dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
