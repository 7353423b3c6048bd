# `make demo` runs pvae once, `make test` runs the tests, `make docs` builds the site. The first of
# them makes .venv.
# With another interpreter: make PYTHON=python3.13 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test docs dev

demo: $(VENV)/.test
	$(BIN)/pvae run --out runs/demo --overwrite

test: $(VENV)/.test
	$(BIN)/python -m pytest

# Builds the site, build/docs/index.html; a warning is an error.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -q -W --keep-going -j auto docs build/docs

# Installs ruff, the type checker and build too, for work on pvae.
dev: $(VENV)/.dev

$(VENV)/.test $(VENV)/.docs $(VENV)/.dev: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
	  echo "pvae needs Python 3.12 or newer, and $(PYTHON) is not." >&2; \
	  echo "Install one and name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
