# The commands of minidl: make convnet | textgen | transfer | test | lint | format | clean (Python 3.11 or newer).

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
RUNS ?= runs

.PHONY: help convnet textgen transfer test dev lint format clean
.DELETE_ON_ERROR:

help:
	@sed -n '1s/^# //p' Makefile

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "minidl needs Python >= 3.11; set PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[dev,kernels,text,convert]'
	@touch $@ $(VENV)/.core

dev: $(VENV)/.dev

# Always the embedded data: a folder that happens to be set in the environment must not change it.
convnet: $(VENV)/.core
	env -u MINIDL_DATA $(VENV)/bin/python -m projects.convnet --preset quick --dataset embedded

textgen: $(VENV)/.core
	env -u MINIDL_DATA $(VENV)/bin/python -m projects.textgen --preset quick --dataset embedded

# The same budget from scratch, then on the backbone that is in the repository.
transfer: $(VENV)/.core
	env -u MINIDL_DATA $(VENV)/bin/python -m projects.transfer --preset quick-scratch --dataset embedded
	env -u MINIDL_DATA $(VENV)/bin/python -m projects.transfer --preset quick --dataset embedded

# The framework runs its own team of threads; a second pool of BLAS threads would fight it. Most
# tests keep one core busy: two processes share them out by file.
test: $(VENV)/.dev
	OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	git ls-files '*.cu' '*.cuh' '*.h' '*.cpp' | xargs -r $(VENV)/bin/clang-format -i

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
