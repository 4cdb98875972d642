# Every target makes the environment it needs; `make demo` and `make test` are the two to know.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-all check bench clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt --editable '.[dev]'
	@# auto_LiRPA's own metadata pins a torch too old for this Python: without its dependencies it runs.
	$(BIN)/pip install --quiet -c constraints.txt appdirs packaging
	$(BIN)/pip install --quiet -c constraints.txt --no-deps auto_LiRPA
	touch $@

demo: install
	$(BIN)/vaerdict demo

test: install
	$(BIN)/pytest -n 2 -m "not slow"

test-all: install
	$(BIN)/pytest -n 2

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install
	@# Those that take --check are benchmarks; the other files are their parts.
	for file in $$(grep -l '= make_parser(' benchmarks/*.py); do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
