# mammofed. `make` or `make help` lists what there is.
PYTHON ?= python3
VENV ?= .venv
TEST_WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo consortium test e2e soak lint clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   set up, run a federation of four virtual hospitals, write a report"
	@echo "make consortium   the same as real processes with TLS: a coordinator, three sites"
	@echo "make test   set up, lint, check types, run all tests but those of make e2e"
	@echo "make e2e    kill, cut, slow and fill what a consortium is made of"
	@echo "make soak   2,000 mutated DICOM files; 200 rounds of five sites; twenty sites"
	@echo "make lint   only lint, format check and types"
	@echo "make clean  delete the environment and caches; data/ and runs/ stay"

demo: $(VENV)/.core
	$(BIN)/mammo-sim experiment=demo

consortium: $(VENV)/.core
	$(BIN)/mammo-sim experiment=consortium

# Every file stays with one worker; in order, as the few long tests would be last else.
test: lint
	$(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) \
	  --dist loadfile --no-loadscope-reorder

e2e: $(VENV)/.dev
	$(BIN)/python -m pytest tests/e2e -m long

soak: $(VENV)/.dev
	FUZZ_FILES=2000 $(BIN)/python -m pytest tests/client/data/test_any_dicom.py
	$(BIN)/python -m pytest tests/e2e -m soak -s

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A stamp per kind of installation: nothing is installed again until a file here changes.
$(VENV)/.core: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory $(VENV)/.made
	@echo "Installing mammofed: about 3 GB to download, 6 GB on disk, mostly PyTorch."
	$(PIP) install --quiet --editable . --constraint constraints.txt
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory $(VENV)/.made
	@echo "Installing mammofed, its tests and Ray: about 3 GB to download, 6 GB on disk."
	$(PIP) install --quiet --editable ".[dev,ray]" --constraint constraints.txt
	@touch $@ $(VENV)/.core

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	"mammofed needs Python 3.11 or newer; this is " + sys.version.split()[0] + \
	". Name another one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
