# `make demo` and `make test` need Python 3.11 or newer, make and a network; everything else they set up
# themselves, in .venv. Each target is a line; what takes more is a script in scripts/.

SHELL := /bin/bash
PY := .venv/bin/python
DEMO_PATH ?=
PORT ?= 7420
PYTEST_ARGS ?=
# Tests wait for processes most of the time: two at once, file by file, take half as long as one.
JOBS ?= 2
export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint types fmt proto proto-check redis kubo cluster test-cluster docs bench soak clean

help: ## Show what there is to make.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.ready: pyproject.toml constraints.txt scripts/venv.sh
	scripts/venv.sh && touch $@

.venv/.ready-test: pyproject.toml constraints.txt scripts/venv.sh
	scripts/venv.sh test && touch .venv/.ready $@

.venv/.ready-bench: .venv/.ready-test
	scripts/venv.sh test,bench && touch $@

venv: .venv/.ready-test ## Make .venv with everything that work on the project needs.

demo: .venv/.ready ## Run a real graph over real files on two workers (DEMO_PATH=… for another tree).
	$(PY) examples/source_atlas.py --workers 2 $(if $(DEMO_PATH),"$(DEMO_PATH)")

test: lint types proto-check redis kubo ## Everything: lint, types, generated code, all tests.
	$(PY) -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

lint: .venv/.ready-test ## ruff and buf.
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && .venv/bin/buf lint

types: .venv/.ready-test ## mypy, strict.
	$(PY) -m mypy

fmt: .venv/.ready-test ## Format the code and the wire.
	$(PY) -m ruff check --fix --exit-zero . && $(PY) -m ruff format . && .venv/bin/buf format -w

proto: .venv/.ready-test ## Generate cascade_dist/v1 from proto/.
	scripts/proto.sh write

proto-check: .venv/.ready-test ## Is the committed generated code what proto/ says?
	scripts/proto.sh check

redis: .venv/.ready-test ## Make sure that there is a redis-server to test with.
	$(PY) scripts/ensure_redis.py

kubo: .venv/.ready-test ## Make sure that there is an IPFS node to test with; the first time, Go builds it for minutes.
	$(PY) scripts/ensure_kubo.py

cluster: redis ## Redis, a scheduler and two workers in the foreground, until Ctrl-C.
	$(PY) scripts/cluster.py --port $(PORT) --dir .cluster

test-cluster: redis ## The same processes, and the integration tests against them.
	$(PY) scripts/cluster.py -- $(PY) -m pytest tests/integration $(PYTEST_ARGS)

docs: .venv/.ready-test ## Build the documentation into build/docs.
	$(PY) -m sphinx -W -q -b html docs build/docs && echo "build/docs/index.html"

bench: .venv/.ready-bench ## Figures, beside Ray, Dask and the bare transport.
	$(PY) -m benchmarks

soak: redis ## The tests that take minutes; random programs for SOAK_SECONDS (600) with fresh seeds.
	$(PY) -m pytest -m long $(PYTEST_ARGS)

clean: ## Remove what make has made.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .cluster build dist
