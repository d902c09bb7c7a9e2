# Two commands are enough on a fresh machine with Python 3.11 or newer: `make sweep` and `make test`.
# Each prints the commands it stands for; the second time nothing is installed again.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: sweep test check soak environment clean

environment: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdtune needs Python 3.11 or newer; PYTHON=python3.12 make ... names another")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

sweep: environment
	$(BIN)/python -m kdtune.sweep sweeps/fickle.yaml
	$(BIN)/python analysis/fickle.py results/fickle

test: environment
	$(BIN)/python -m pytest

check: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: environment
	$(BIN)/python -m pytest -m soak --timeout=3600

clean:
	rm -rf .venv
