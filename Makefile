# `make demo` and `make test` need Python 3.11 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := benchmarks/peers/.venv
CONSTRAINTS := constraints.txt

.PHONY: help install demo test numeric container bench docs lint format clean

help: ## list what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/installed ## .venv with the exact versions of constraints.txt, and this code, editable

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sentinode needs Python 3.11 or newer: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

demo: install ## a small study of synthetic tissue, demo/study/report.html, and its heat maps of slides
	@rm -rf demo
	$(BIN)/sentinode phantom demo/phantom --patches 4000 --slides 24 --seed 25
	$(BIN)/sentinode study demo/phantom --preset quick --out demo/study --cache demo/cache
	$(BIN)/sentinode phantom demo/slides --whole-slides 2 --seed 25
	$(BIN)/sentinode slides demo/study demo/slides/slides --out demo/heatmaps
	@echo "report:     $(CURDIR)/demo/study/report.html"
	@echo "heat maps:  $(CURDIR)/demo/heatmaps/report.html"
	@echo "submission: $(CURDIR)/demo/study/submission.csv"
	@echo "its page:   $(BIN)/sentinode serve demo/study --data demo/phantom --slides demo/slides/slides --heatmaps demo/heatmaps"

# Processes of one thread each, one more than cores, for some tests wait; a file's tests share what they have prepared.
# Compiled tests are kept, whatever the shell asks for: else each process compiles all of them anew, every time.
test: install ## all tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# The tests of numbers again, in other instructions than the processor's best: sse, avx or avx2 (the last with fused
# multiply-add); what each library then uses stands at the end. Loops are compiled anew the first time.
INSTRUCTIONS ?= sse
WITH_sse := NUMBA_CPU_NAME=generic NUMBA_CPU_FEATURES= ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
WITH_avx := NUMBA_CPU_NAME=sandybridge NUMBA_CPU_FEATURES=+avx ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX
WITH_avx2 := NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
numeric: install ## tests of numbers under other instructions: INSTRUCTIONS=sse, avx or avx2
	@echo "numeric tests with: $(WITH_$(INSTRUCTIONS))"
	PYTHONDONTWRITEBYTECODE= $(WITH_$(INSTRUCTIONS)) $(BIN)/python -m pytest -m numeric --numprocesses 2 --dist loadfile --no-loadscope-reorder

# All tests as in a container: no home, no name, ASCII, a package that cannot be written, busy processors. For root on Linux.
container: install ## all tests as in a container without a home (Linux, root)
	benchmarks/container.sh

# Sentinode against its peers, which get a venv of their own: make bench BENCH='fit --quick'
bench: install $(PEERS)/installed ## sentinode beside its peers: BENCH='fit --quick'
	$(BIN)/python benchmarks/bench.py --json benchmarks/results/latest.json $(BENCH)

$(PEERS)/installed: benchmarks/peers/requirements.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

# Warnings are errors: a link that leads nowhere, a public name without a docstring page.
docs: install ## the documentation as a site: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: install ## ruff and mypy
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

format: install ## let ruff fix what it can
	$(BIN)/ruff check --fix src tests benchmarks docs
	$(BIN)/ruff format src tests benchmarks docs

clean: ## remove what was made, but for .venv
	rm -rf demo build site .mypy_cache .pytest_cache .ruff_cache
