# `make demo` and `make test` need Python 3.11 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := benchmarks/peers/.venv
CONSTRAINTS := constraints.txt

.PHONY: install demo test numeric container bench lint format clean

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

# The tests of numbers again, in other instructions than the processor's best: sse, avx or avx2 (the last with fused
# multiply-add); what each library then uses stands at the end. Loops are compiled anew the first time.
INSTRUCTIONS ?= sse
WITH_sse := NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES= ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
WITH_avx := NUMBA_CPU_NAME=sandybridge NUMBA_CPU_FEATURES=+avx ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX
WITH_avx2 := NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
numeric: install
	@echo "numeric tests with: $(WITH_$(INSTRUCTIONS))"
	$(WITH_$(INSTRUCTIONS)) $(BIN)/python -m pytest -m numeric --numprocesses 2 --dist loadfile

# All tests as in a container: no home, no name, ASCII, a package that cannot be written, busy processors. For root on Linux.
container: install
	benchmarks/container.sh

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
