# Every target works in .venv, which is made from requirements.lock when first needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := .venv/bin
SEEDS ?= 5
FIRST ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start many commands: each would compile the project again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-all chaos bench soak lint

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: .venv/questlog.stamp ## bring in a real course, show what its people see, and serve it until Ctrl-C
	@exec $(RUN)/questlog demo

test: lint tests/clients/node_modules/questlog.stamp ## everything that ends within five minutes
	$(RUN)/pytest -m "not long" --numprocesses 3 --dist loadscope --no-loadscope-reorder

test-all: .venv/questlog.stamp tests/clients/node_modules/questlog.stamp ## what takes longer, or needs still more: wheel, ordinary user, PostgreSQL 15
	$(RUN)/pytest -m long --numprocesses 2 --dist loadscope --ignore tests/test_ordinary_user.py
	$(RUN)/pytest tests/test_ordinary_user.py

chaos: .venv/questlog.stamp ## servers killed, stopped and slowed at random under load: make chaos SEEDS=50 FIRST=1
	@exec $(RUN)/python -m tests.chaos.run $(SEEDS) $(FIRST) 2> chaos.log

bench: .venv/questlog.stamp ## how fast it is (needs wrk)
	@exec $(RUN)/python -m tests.bench

soak: .venv/questlog.stamp ## half an hour of load, or SOAK_MINUTES, and what grew meanwhile
	@exec $(RUN)/python -m tests.bench.soak

lint: .venv/questlog.stamp ## style, types, and the order of the rooms
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

.venv/requirements.stamp: requirements.lock
	test -x $(RUN)/python || $(PYTHON) -m venv .venv
	$(RUN)/pip install --quiet --require-hashes --requirement requirements.lock
	touch $@

.venv/questlog.stamp: .venv/requirements.stamp pyproject.toml
	$(RUN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

tests/clients/node_modules/questlog.stamp: tests/clients/package-lock.json
	npm ci --prefix tests/clients --no-audit --no-fund --loglevel error
	touch $@
