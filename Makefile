# What a developer types. Each target first installs what it needs into .venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PACKAGES := clients/ottla_protocol clients/ottla cluster/ottla_cluster broker/ottla_broker
PACKAGES += ops/ottla_ops $(wildcard loadtests)
# A worker more than two cores have: tests with brokers wait for half of their time.
PYTEST_ARGS ?= -n 3 --dist worksteal

# `ottla` and `python` in the Procfile are those of .venv.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Tests, benches and clusters are many processes. Where Python is told to keep no bytecode, each of
# them would compile everything again; here it is kept, and away from the sources.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/bytecode

.PHONY: help start start-dedicated test chaos soak lint bench demo load load-ui docs clean

help:
	@echo 'make start   a cluster of three brokers on ports 7101-7103; Ctrl-C stops it'
	@echo 'make start-dedicated   three brokers on 7201-7203, three controllers on 7204-7206'
	@echo 'make demo    kills a leader while records are written, and counts them'
	@echo 'make test    all tests; PYTEST_ARGS="-k raft" for some'
	@echo 'make chaos   faults on real brokers for some minutes, and how long a failover takes'
	@echo 'make soak    all faults and simulations for an hour; OTTLA_SOAK_SECONDS for less'
	@echo 'make lint    ruff, mypy, pyright for the clients, and the import contracts'
	@echo 'make bench   throughput and latency, one broker and three'
	@echo 'make load    many clients, with locust, for two minutes; kills a broker, reads all back'
	@echo 'make load-ui   the same clients from a web page on port 8089; Ctrl-C stops it'
	@echo 'make docs    the documentation as a site: open site/html/index.html'
	@echo 'make clean   remove caches and results; `.venv/bin/ottla dev reset` removes the data of make'
	@echo '             start, `--data data/dedicated` that of make start-dedicated'

start: .venv/server-installed
	$(BIN)/honcho start || test $$? -eq 130  # Ctrl-C is how it ends

start-dedicated: .venv/server-installed
	$(BIN)/honcho start -f Procfile.dedicated || test $$? -eq 130

test: .venv/dev-installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Needs root on Linux, iproute2, util-linux, e2fsprogs and strace; it says what is missing.
chaos: .venv/dev-installed .venv/faketime
	$(BIN)/python -m tests.chaos.chaos_run --brokers 3 --choose 14 --at-most-s 200 --at-least 10
	$(BIN)/python -m tests.chaos.chaos_run --brokers 5 --choose 5 --at-most-s 80 --at-least 3
	$(BIN)/python -m tests.chaos.failover --kills 5

soak: .venv/dev-installed .venv/faketime
	$(BIN)/python -m tests.chaos.soak

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

load-ui: .venv/dev-installed
	$(BIN)/python -m loadtests.load --ui || test $$? -eq 130  # Ctrl-C is how it ends

docs: .venv/dev-installed
	$(BIN)/python -m ottla_ops.documentation.build . site

clean:
	rm -rf site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench-results dist

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/server-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing into .venv, about a minute'
	$(INSTALL) -e '.[server]'
	touch $@

# Jumps of the wall clock: libfaketime where apt has it, else Python's own functions are replaced.
.venv/faketime: | $(BIN)/python
	mkdir -p $@
	-cd $@ && apt-get download --quiet libfaketime && dpkg-deb -x libfaketime_*.deb .

.venv/dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing into .venv, about a minute'
	$(INSTALL) -e '.[dev]'
	touch $@ .venv/server-installed
