# What a developer types. Each target first installs what it needs into .venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PACKAGES := clients/ottla_protocol clients/ottla cluster/ottla_cluster broker/ottla_broker
PACKAGES += ops/ottla_ops $(wildcard loadtests)
PYTEST_ARGS ?= -n 2 --dist worksteal

# `ottla` and `python` in the Procfile are those of .venv.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help start test soak lint bench demo load clean

help:
	@echo 'make start   a cluster of three brokers on ports 7101-7103; Ctrl-C stops it'
	@echo 'make demo    kills a leader while records are written, and counts them'
	@echo 'make test    all tests; PYTEST_ARGS="-k raft" for some'
	@echo 'make soak    the chaos tests for ten minutes instead of seconds'
	@echo 'make lint    ruff, mypy, pyright for the clients, and the import contracts'
	@echo 'make bench   throughput and latency, one broker and three'
	@echo 'make load    many clients over HTTP, with locust'
	@echo 'make clean   remove caches and results; `.venv/bin/ottla dev reset` removes the data'

start: .venv/server-installed
	$(BIN)/honcho start || test $$? -eq 130  # Ctrl-C is how it ends

test: .venv/dev-installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

soak: .venv/dev-installed
	OTTLA_SOAK_SECONDS=600 $(BIN)/python -m pytest -s tests/chaos

lint: .venv/dev-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/basedpyright
	$(BIN)/lint-imports

bench: .venv/dev-installed
	$(BIN)/python -m loadtests.bench

demo: .venv/server-installed
	$(BIN)/python -m loadtests.demo

load: .venv/dev-installed
	$(BIN)/python -m loadtests.load

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench-results dist

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/server-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing into .venv, about a minute'
	$(INSTALL) -e '.[server]'
	touch $@

.venv/dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing into .venv, about a minute'
	$(INSTALL) -e '.[dev]'
	touch $@ .venv/server-installed
