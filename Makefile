# make demo, make test: each does all set-up on a machine with only Python (3.11 or newer), pip and make.
PYTHON ?= python3
DEMO ?= demo
BIN := .venv/bin
# one thread a process, one process a core: torch's own threads fight over shared cores
export OMP_NUM_THREADS := 1
export RAYON_NUM_THREADS := 1
# the tests start hundreds of processes; without bytecode each would compile this project again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test lint

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/kappascout demo $(DEMO)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder  # in the order of tests/conftest.py
