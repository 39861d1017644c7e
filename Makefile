# The commands of the README. Needs Python 3.11 or 3.12, git and make; everything else goes into .venv.
PYTHON ?= python3
# Where pip looks for torch. Empty: wherever pip looks anyway (on Linux PyPI's build brings CUDA, several GB).
# For the CPU build: make run TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH ?= torch==2.13.0

BIN := .venv/bin
# Not compiled: Python does it for what is imported, which is a small part of what is installed, and takes half the time.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)
INSTALL_TORCH = $(INSTALL) "$(TORCH)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
# torch's own files while everything else is installed; then what it asks for and the lock does not have (CUDA's libraries).
install = { $(INSTALL_TORCH) --no-deps & torch=$$!; \
	  $(INSTALL) --no-deps --require-hashes -r $(1); locked=$$?; wait $$torch && [ $$locked = 0 ]; } && \
	  $(INSTALL_TORCH) && $(INSTALL) --no-deps --no-build-isolation -e .
# Apart, so that nothing but the tests of the kernels imports it. Empty where torch's CUDA build has brought its own.
TRITON := .venv/triton

.PHONY: help run demo test test-triton check lint types soak bench bench-gateway lock setup setup-dev setup-triton clean
help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

run: setup  ## set everything up, then start the pocket pool and the gateway (Ctrl-C stops both)
	@exec $(BIN)/llmrouter serve

demo: setup  ## ask the pocket pool a few checkable questions through model="auto", and stop
	@exec $(BIN)/llmrouter demo

test: setup-dev  ## run the tests
	@exec $(BIN)/python -m pytest $(PYTEST_ARGS)

test-triton: setup-triton  ## run the tests of the Triton kernels, without a GPU in Triton's interpreter (downloads 300 MB)
	@exec env LLMROUTER_NEEDS_TRITON=1 PYTHONPATH=$(CURDIR)/$(TRITON) \
	  $(BIN)/python -m pytest tests/llmrouter/moe/test_moe_experts_kernel.py $(PYTEST_ARGS)

check: lint types  ## lint, format, types, import layers

lint: setup-dev  ## lint, format, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup-dev  ## types
	$(BIN)/mypy

soak: setup-dev  ## long trials: kill loops and fuzzing (minutes)
	@exec env LLMROUTER_EXAMPLES=$${LLMROUTER_EXAMPLES:-500} $(BIN)/python -m pytest -m soak -s -o addopts="-ra --strict-markers --strict-config" $(PYTEST_ARGS)

bench: setup-dev  ## score the routers on the data in LLMROUTER_DATA (or on the shipped pocket outcomes)
	@exec $(BIN)/python -m benchmarks.quality

bench-gateway: setup-dev  ## load the gateway and its peers (three quarters of an hour; installs the peers)
	@exec $(BIN)/python -m benchmarks.gateway

lock:  ## renew the pinned requirements (needs uv)
	@requirements/compile

setup: .venv/.run  ## virtual environment for `make run`
setup-dev: .venv/.dev  ## virtual environment for tests and training
setup-triton: .venv/.triton  ## triton beside it, for `make test-triton`

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "llmrouter needs Python 3.11 to 3.13; set PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.run: .venv/bin/python requirements/run.lock pyproject.toml
	@echo "Installing into .venv (once; a few minutes) ..."
	$(call install,requirements/run.lock)
	@touch $@

.venv/.dev: .venv/bin/python requirements/dev.lock pyproject.toml
	@echo "Installing the development environment into .venv (once; a few minutes) ..."
	$(call install,requirements/dev.lock)
	@touch $@ .venv/.run

# After .dev, which may have changed torch's build.
.venv/.triton: .venv/.dev requirements/triton.lock
	rm -rf $(TRITON)
	mkdir $(TRITON)
	$(BIN)/python -c 'import triton' 2>/dev/null || \
	  $(INSTALL) --no-deps --require-hashes --target $(TRITON) -r requirements/triton.lock
	@touch $@

clean:  ## remove what was built or installed
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage* htmlcov
