# `make demo` and `make test` need Python 3.11 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := benchmarks/peers/.venv
CONSTRAINTS := constraints.txt

.PHONY: install demo test bench lint format clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sentinode needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

demo: install
	@rm -rf demo
	$(BIN)/sentinode phantom demo/phantom --patches 4000 --slides 24 --seed 25
	$(BIN)/sentinode study demo/phantom --preset quick --out demo/study --cache demo/cache
	@echo "report:     $(CURDIR)/demo/study/report.html"
	@echo "submission: $(CURDIR)/demo/study/submission.csv"

# Two processes of one thread each are faster than one; a file's tests share what they have prepared.
test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Sentinode against its peers, which get a venv of their own: make bench BENCH='fit --quick'
bench: install $(PEERS)/installed
	$(BIN)/python benchmarks/bench.py --json benchmarks/results/latest.json $(BENCH)

$(PEERS)/installed: benchmarks/peers/requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

lint: install
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

clean:
	rm -rf demo build .mypy_cache .pytest_cache .ruff_cache
