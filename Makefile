# make help   lists the targets
#
# Needs make, a C compiler and CPython 3.11 or newer. Everything else goes into VENV (.venv), from the network the first
# time and whenever pyproject.toml has changed; after that it works offline. VENV is made with PYTHON, or with the first
# interpreter that works.

PORT ?= 8080
UPSTREAM ?= echo
ARGS ?=

VENV ?= .venv
PYTHON ?= python3.13 python3.12 python3.11 python3.14 python3 python
BIN := $(VENV)/bin

# Set, it would have each of the hundred processes that the tests start compile everything anew.
export PYTHONDONTWRITEBYTECODE :=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_PYTHON_VERSION_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help run test test-deep lint format check docs bench examples lock clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 16
	@echo
	@echo 'variables: PORT=8080  UPSTREAM=echo (the built-in model) or a base URL  ARGS="more arguments"'
	@echo '           VENV=.venv  PYTHON=python3.12 (what VENV is made with)'

run: $(VENV)/installed ## serve on 127.0.0.1:8080, with the built-in echo model unless UPSTREAM=http://…/v1
	@exec $(BIN)/branchline serve --port '$(PORT)' --upstream '$(UPSTREAM)' $(ARGS)

test: $(VENV)/installed-dev ## run the tests; ARGS="-k name" selects some
	@# three processes on two processors: much of a test is waiting
	@$(BIN)/pytest -n $$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 )) --dist worksteal $(ARGS)

test-deep: export DEEP := 1
test-deep: test ## the same with all seeds, examples and sizes, the store's tests on fakeredis too

lint: $(VENV)/installed-dev ## check format, style, types and import direction
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(VENV)/installed-dev ## format the code and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

check: lint test ## all that must pass before a change lands

docs: $(VENV)/installed-dev ## write docs/configuration.md and config.example.toml anew from proxy/config/settings.py
	@$(BIN)/python -m proxy.config.reference

bench: $(VENV)/installed-bench ## measure and write docs/performance.md: 20 minutes, or ARGS=--quick
	@# in a session of its own, so that the load's niceness counts beside the servers'
	@setsid --wait $(BIN)/python -m benchmarks $(ARGS)

lock: $(BIN)/python ## write requirements.lock anew: the newest versions that pyproject.toml allows, with hashes
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--python-version 3.11 pyproject.toml --output-file requirements.lock

examples: .venv-examples/installed ## install what the examples in docs/examples need; `make test` then runs all of them
	@if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --no-package-lock --prefix docs/examples; fi

.venv-examples/installed: pyproject.toml | $(BIN)/python
	@echo 'installing the packages of the examples into .venv-examples'
	@$(BIN)/python -m venv .venv-examples
	@.venv-examples/bin/python -m pip install --quiet 'langchain-openai' 'pydantic-ai-slim[openai]' openai-agents
	@touch $@

clean: ## remove .venv*, caches and build output; data stays
	@rm -rf .venv .venv-* $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .schemathesis .import_linter_cache docs/examples/node_modules
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@for python in $(PYTHON); do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			echo "making $(VENV) with $$("$$python" --version)"; \
			exec "$$python" -m venv $(VENV); \
		fi; \
	done; \
	echo 'No CPython 3.11 or newer with its venv module was found: $(PYTHON).' >&2; \
	exit 1

$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo 'installing branchline into $(VENV)'
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	@echo 'installing branchline and its development tools into $(VENV)'
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: pyproject.toml | $(BIN)/python
	@echo 'installing branchline and what its benchmarks draw with into $(VENV)'
	@$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@ $(VENV)/installed
