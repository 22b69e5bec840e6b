# Each of these sets up what it needs on a fresh Debian or Ubuntu with Python 3.11, and says so
# in a sentence if it cannot. PYTHON=/path/to/python3.11 chooses another interpreter.
SHELL := /bin/bash
PY := .venv/bin/python
TESTS ?= tests
# Models and pages that SQL of either database could break; all else runs on SQLite alone.
ON_POSTGRESQL ?= tests/annotator/test_importing.py tests/annotator/test_queue_plans.py $(addprefix tests/rlhf/test_,$(addsuffix .py,datasets documents gate_pairs gate_pages \
  gating prompt_commands quarantine routes screening_views searching))
# Where Debian keeps runuser, which the tests start a private PostgreSQL with.
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help demo test test-all check bench clean
help:
	@echo "make demo      start everything here, with a project to try"
	@echo "make test      checks and tests, without the slow ones"
	@echo "make test-all  checks and all tests, some of them on PostgreSQL too"
	@echo "make check     only what needs no test run: lint, format, types, imports, migrations"
	@echo "make bench     the measurements, one JSON line each"
	@echo "make clean     remove caches and the virtual environment; var/ (your data) stays"

# Quiet, so that the logins stay on the screen.
demo: export PREFERENDUM_LOG_LEVEL ?= WARNING
demo:
	@bin/setup
	@exec $(PY) manage.py demo

# Two test processes on two cores: threads that wait for each other would make both many times slower.
test test-all: export OMP_NUM_THREADS ?= 1
test: check
	$(PY) -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder -m "not slow" $(TESTS)

test-all: check
	$(PY) -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder $(TESTS)
	$(PY) -m tests.on_postgresql -q -n 2 --dist loadscope -m "not slow" $(ON_POSTGRESQL)

check:
	@bin/setup dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	.venv/bin/djade --check --target-version 5.2 $$(git ls-files 'templates/*.html')
	.venv/bin/lint-imports
	$(PY) -m mypy
	$(PY) manage.py makemigrations --check --dry-run
	env -i PATH="$$PATH" HOME="$$HOME" $(PY) manage.py check --deploy --fail-level WARNING

bench:
	@bin/setup dev
	$(PY) bench/queue_latency.py
	$(PY) bench/queue.py --tasks 1000 --seconds 10
	$(PY) bench/key_to_text.py
	$(PY) bench/io.py --rows 10000 --direction import
	$(PY) bench/io.py --rows 10000 --direction export
	$(PY) bench/ppo.py

clean:
	rm -rf .venv *.egg-info staticfiles test-results .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
