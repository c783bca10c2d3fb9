# `make quickstart` installs everything and runs the default recipe; `make test` runs lint, types and all tests.
# Nothing is written outside this folder: packages go to .venv, what can be made again to .rlscale, runs to outputs.

PYTHON ?= python3
TORCH := 2.13.0

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
RECENT = import sys; sys.exit(sys.version_info < (3, 11) and "rlscale needs Python 3.11 or newer: $(1)")
SCRATCH := $(CURDIR)/.rlscale

export TMPDIR := $(SCRATCH)/tmp
export XDG_CACHE_HOME := $(SCRATCH)/cache
export OMP_NUM_THREADS ?= 1
export PYTHONDONTWRITEBYTECODE :=

SEED ?= 0
PYTEST := $(BIN)/python -m pytest -m "not gpu"

.PHONY: quickstart install test lint types smoke unit dist e2e browser gpu battery fuzz schedules clean

quickstart: install
	$(BIN)/python -m rlscale

install: $(STAMP)

# Torch comes first and by itself: asked for by its exact version, with its own dependencies, it may be the CPU or the
# CUDA build, whichever pip finds here. Everything else comes from the lock, without looking at dependencies again
# (SGLang names packages that exist for CUDA only). The version of Python is asked before a venv is made of it, which
# the next call would keep.
$(STAMP): requirements.lock pyproject.toml
	mkdir -p $(TMPDIR)
	test -x $(BIN)/python || { $(PYTHON) -c '$(call RECENT,make PYTHON=python3.11)' && $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -c '$(call RECENT,make clean and make PYTHON=python3.11)'
	$(BIN)/python -m pip install --quiet --no-cache-dir torch==$(TORCH)
	$(BIN)/python -m pip install --quiet --no-cache-dir --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-cache-dir --no-deps --no-build-isolation -e .
	touch $(STAMP)
	@echo 'Installed. For the commands of the README, once in each shell: source .venv/bin/activate'

test: install lint types unit dist e2e

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# The tiers: unit in forks of one process that has imported and collected everything (files stay whole, for their fixtures; a
# conftest.py orders them), dist and e2e in pytest processes of their own, dist each with gloo ranks, e2e two with real
# servers. Unit tests that wait, for a signal or until a time limit is over, leave a sixth of two cores idle, which is
# why there are more forks than cores.
FORKS := $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 7 ? n + 2 : 8)))
# Of the unit tests, what tells most per second: the import rules, the mathematics, batches, the guards of processes.
SMOKE := tests/unit/test_imports.py tests/unit/algo tests/unit/data/batches/test_batch.py tests/unit/data/batches/test_packing.py \
	tests/unit/run/test_loops.py tests/unit/serve/test_process.py tests/unit/serve/test_fork_server.py

smoke: install
	$(PYTEST) -p tests.forked_workers --forks=$(FORKS) $(SMOKE)

# What needs no torch begins at once, in a pytest process of its own, while one core imports what all others need. What it
# says follows what they say.
AHEAD := tests/unit/config tests/unit/explain tests/unit/plan
AHEAD_SAID := $(SCRATCH)/unit-ahead.txt

# Beside them the folders of packages that some tests use are filled, where they are not there yet. That ends with the
# tests: where they have passed, so must it have; where not, it is stopped.
unit: install
	@mkdir -p $(SCRATCH)
	$(BIN)/python -m tests.extras & filling=$$!; \
		$(PYTEST) -p tests.forked_workers --forks=2 $(AHEAD) > $(AHEAD_SAID) 2>&1 & ahead=$$!; \
		trap 'kill $$filling $$ahead 2>/dev/null; wait' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; \
		$(PYTEST) -p tests.forked_workers --forks=$(FORKS) $(AHEAD:%=--ignore=%) tests/unit; others=$$?; \
		wait $$ahead; own=$$?; cat $(AHEAD_SAID); \
		test $$others = 0 && test $$own = 0 && wait $$filling

dist: install
	$(PYTEST) -n logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder tests/dist

# For the test of the dashboard: Debian's browser, where this user may install it. Without one that test says that it did not run.
browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& timeout 300 sh -c "apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium"; } >/dev/null 2>&1 \
		|| echo 'no browser could be installed: the test of the dashboard in one does not run'

e2e: install browser
	$(PYTEST) -n logical --maxprocesses=2 --dist=loadfile --no-loadscope-reorder -m "not gpu and not alone" tests/e2e
	$(PYTEST) -m "alone and not gpu" tests/e2e

gpu: install
	$(BIN)/python -m pytest -m gpu tests

# Malformed command lines, recipes, data files, model and run folders: what comes of each (docs/reliability.md).
battery: install
	$(BIN)/python -m tests.battery

# A thousand of the same, mutated by a seed, and as many malformed HTTP requests to each endpoint.
fuzz: install
	$(BIN)/python -m tests.battery --mutated 1000 --requests 1000 --seed $(SEED)

# A thousand random courses of faults, syncs and restarts of the rollout instead of the fifty of `make unit`.
schedules: install
	$(PYTEST) --hypothesis-profile=thousand --timeout=3600 tests/unit/rollout/test_schedules.py

clean:
	rm -rf $(VENV) .rlscale .mypy_cache .ruff_cache .hypothesis outputs build dist
