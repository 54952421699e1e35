# Two commands on a machine with git, make and Python 3.11: `make demo` and `make test`.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
COSMIC := .venv-cosmic
STAMP  := $(VENV)/.stamp-ready

.PHONY: demo test test-long setup lint types wheel golden bench mutants mutants-sample clean lock

demo: $(STAMP)
	$(BIN)/hv demo --home demo-home

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# Everything at full size: see docs/testing.md for what it adds and when to run it.
test-long: $(STAMP)
	HARVESTER_TEST_LONG=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

setup: $(STAMP)

# The lock pins every package by hash; the project itself is installed in place.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Harvester needs Python 3.11 or newer; this is " + sys.version.split()[0] + "; choose another: make demo PYTHON=python3.11")'
	@echo "setting up $(VENV), once, about a minute: 1/3 the environment"
	@$(PYTHON) -m venv $(VENV)
	@echo "2/3 the packages of requirements.lock, each checked by its hash"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --require-hashes -r requirements.lock
	@echo "3/3 Harvester itself"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# Builds the wheel, installs it into a fresh environment and runs `hv --help` from another folder.
wheel: $(STAMP)
	$(BIN)/python tools/check_wheel.py

golden: $(STAMP)
	HARVESTER_REWRITE_GOLDEN=1 $(BIN)/python -m pytest tests -k golden

bench: $(STAMP)
	$(BIN)/python bench/run_all.py

# Every mistake listed in tests/mistakes, one by one: does a test notice?
mutants: $(STAMP)
	$(BIN)/python tools/mutants.py $(ARGS)

# A random sample of cosmic-ray's mutations: make mutants-sample ARGS="--seed 1 --count 300"
mutants-sample: $(STAMP) $(COSMIC)/.stamp-ready
	$(BIN)/python tools/mutants.py sample --generator $(COSMIC)/bin/python $(ARGS)

# In an environment of its own: the lock does not hold it.
$(COSMIC)/.stamp-ready:
	$(PYTHON) -m venv $(COSMIC)
	$(COSMIC)/bin/python -m pip install --quiet --disable-pip-version-check cosmic-ray==8.7.0
	@touch $@

# One lock for Linux, macOS and Windows: hashes only, no addresses.
lock: $(STAMP)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes \
		--no-annotate --no-header --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) $(COSMIC) dist build demo-home
