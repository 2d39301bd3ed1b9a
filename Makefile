# make demo: the main job.  make test: all tests.  make quick: the tests that are not slow.  Each makes its own environment in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes that tests are shared out to, file by file.
WORKERS ?= 2
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test quick coverage harness fuzz check docs experiments real

demo: $(VENV)/ready
	$(BIN)/valuedrift demo --out runs/demo
	@echo "open runs/demo/report.html"

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test: $(VENV)/ready
	$(PYTEST)

quick: $(VENV)/ready
	$(PYTEST) -m "not slow"

coverage: $(VENV)/ready
	$(PYTEST) --cov --cov-report=term --cov-report=html:build/coverage

# Verbs are killed, their files damaged, and what the same command makes of them compared. Results: build/kills.json, build/damages.json.
harness: $(VENV)/ready
	$(BIN)/python tests/harness/killing.py --kills 200 --out build/kills.json
	$(BIN)/python tests/harness/corrupting.py --files 20 --out build/damages.json
	VALUEDRIFT_HARNESS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/harness tests/distributed/test_ray.py

# 20,000 changed files; INPUTS="--kind plan --inputs 500" tries others.
fuzz: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python tests/harness/fuzz.py $(INPUTS)

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

experiments: $(VENV)/ready
	$(BIN)/python experiments/run.py

# Pretrained models: experiments/real/README.md says what to prepare first.
real: $(VENV)/ready
	$(BIN)/python experiments/run.py real

# torch comes first and by exact version: an unpinned torch may bring gigabytes of CUDA libraries that this project does not need.
# requirements.lock fixes the versions of all else; .ci/lock writes it anew.
$(VENV)/ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[test,dev,docs]'
	touch $@
