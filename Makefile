# Two commands on a fresh machine with Python >= 3.11 and make: `make demo` and `make test`.
# Each builds .venv from a lock of exact versions and goes; a second time there is nothing to build.

VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9

# pip's settings, handed on to uv, which has names of its own for them.
ifdef PIP_FIND_LINKS
comma := ,
export UV_FIND_LINKS ?= $(subst $() ,$(comma),$(PIP_FIND_LINKS))
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
# Hundreds of processes start in the tests: without byte code each compiles torch's sources anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE
# torch alone is some hundred MB: uv's 30 s are short on a slow line.
export UV_HTTP_TIMEOUT ?= 300

UV_INSTALL := $(BIN)/uv pip install --python $(BIN)/python
# Whatever is there serves the demo: the set for developing holds the demo's.
DEMO_SET := $(if $(wildcard $(VENV)/dev.ready),dev,demo)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test tests lint format lock benchmark docs clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/dev.ready  ## build .venv with everything for developing

demo: $(VENV)/$(DEMO_SET).ready  ## train on real images of digits; ARGS=--fresh starts anew
	$(BIN)/python examples/digits.py $(ARGS)

test: lint tests  ## linter, types, floors of the house, and every test

tests: $(VENV)/dev.ready  ## every test, without the linters; ARGS="-k name" picks some
	$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/dev.ready  ## linter, formatting, types and floors of the house
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.ready  ## bring the code into the form that lint asks for
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(BIN)/uv  ## bring requirements/*.lock up to date with pyproject.toml; ARGS=--upgrade takes the newest
	$(BIN)/python requirements/compile.py $(ARGS)

benchmark: $(VENV)/dev.ready  ## measure what a step costs over a bare loop, beside the peers
	$(BIN)/python -m benchmarks overhead --peers $(ARGS)

docs: $(VENV)/dev.ready  ## build the pages of docs/ into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:  ## remove .venv and everything else that was made here, but no run
	rm -rf $(VENV) dist build site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A set is ready when its packages and the project itself are in; the file's date says against which lock.
$(VENV)/%.ready: requirements/%.lock pyproject.toml | $(BIN)/uv
	$(UV_INSTALL) --requirements $<
	$(UV_INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

# The first Python that is new enough; `make PYTHON=/path/to/python ...` chooses another.
$(BIN)/uv:
	@for python in $(or $(PYTHON),python3 python3.12 python3.11 python3.13 python3.14 python); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			test -x $(BIN)/python || $$python -m venv $(VENV) || exit 1; \
			exec $(BIN)/python -m pip install --quiet uv==$(UV_VERSION); \
		fi; \
	done; \
	echo "There is no Python >= 3.11 on the PATH; name one: make PYTHON=/path/to/python" >&2; exit 1
