# make demo: the main job.  make test: the tests.  Both make their own environment in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes that tests are shared out to, file by file.
WORKERS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test check experiments

demo: $(VENV)/ready
	$(BIN)/valuedrift demo --out runs/demo
	@echo "open runs/demo/report.html"

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: $(VENV)/ready
	$(BIN)/ruff check src tests benchmarks examples experiments
	$(BIN)/ruff format --check src tests benchmarks examples experiments
	$(BIN)/mypy

experiments: $(VENV)/ready
	$(BIN)/python experiments/run.py

# torch comes first and by exact version: an unpinned torch may bring gigabytes of CUDA libraries that this project does not need.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[test,dev]'
	touch $@
