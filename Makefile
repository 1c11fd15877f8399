# Everything from a fresh clone: `make sweep` runs the main job, `make test` passes the tests, `make help` lists the rest.
# ARGS are passed on:   make sweep ARGS="data=mnist split.size=4000"
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
ARGS ?=
SWEEP ?= digits-mlp
PORT ?= 5000
BENCH ?= step grid ablation scaling
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := $(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements.lock)
RUN := $(BIN)/python -m

# The default grid: five size ratios x three class imbalances x two lengths, both regimes, 12 seeds: 720 runs.
GRID := split.ratio=0.1,0.3,1,3,10 split.imbalance=1,5,20 stopping.epochs=5,20

# Modules that are compiled anew at every start cost seconds each time.
unexport PYTHONDONTWRITEBYTECODE
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

##@ Set-up
setup: $(VENV)/.installed ## create .venv and install what requirements.lock pins

$(VENV)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	@touch $@

lock: setup ## write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --no-annotate --no-header --generate-hashes --all-extras --group dev \
		pyproject.toml -o requirements.lock

##@ Measuring
sweep: setup ## the main job: sequential against combined over the default grid (or ARGS)
	$(RUN) src.sweep -m $(GRID) $(ARGS)

resume: setup ## go on with an interrupted sweep: the same command, ARGS included, runs only what is missing
	$(RUN) src.sweep -m $(GRID) $(ARGS)

claims: setup ## settle the claims of the thread: 10 minutes   (ARGS="claim=forgets-d1 data=mnist split.size=5000")
	$(RUN) src.claims $(ARGS)

status: setup ## what is done, running, waiting, failed   (SWEEP=name)
	$(RUN) src.status sweep=$(SWEEP)

worker: setup ## join a running sweep from here with all this machine has   (SWEEP=name)
	$(RUN) src.worker sweep=$(SWEEP) n_workers=auto $(ARGS)

##@ Looking
report: setup ## one self-contained page about a sweep, in multirun/SWEEP/report/   (SWEEP=name)
	$(RUN) src.report sweep=$(SWEEP) $(ARGS)

ui: setup ## open MLflow on the results   (PORT=5000)
	$(RUN) src.ui port=$(PORT)

server: setup ## an MLflow server for a team: tracking=server   (PORT=5000 ARGS="storage=postgresql://user@host/db")
	$(RUN) src.ui port=$(PORT) $(ARGS)

sync: setup ## make MLflow say what lies on disk
	$(RUN) src.sync $(ARGS)

##@ Keeping it right
test: setup lint ## lint, types and all tests with coverage
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --durations=10 $(ARGS)

lint: setup ## ruff, the layers of the imports, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

oracles: setup ## the laboratory beside exact answers: minutes   (docs/ORACLES.md)
	$(RUN) src.oracles $(ARGS)

mutate: setup ## plant errors and see that the oracles notice
	$(RUN) benchmarks.mutate

bench: setup ## measure speed: minutes   (docs/PERFORMANCE.md; BENCH="grid" ARGS="repeats=3 many=50", BENCH=gpu)
	@for name in $(BENCH); do $(RUN) benchmarks.$$name $(ARGS) || exit 1; done

campaign: setup ## kill, starve and cut off sweeps, and see that nothing is lost: 25 minutes   (docs/RELIABILITY.md)
	$(RUN) benchmarks.reliability kills
	$(RUN) benchmarks.reliability claims --storage sqlite
	$(RUN) benchmarks.reliability claims --storage postgresql
	$(RUN) benchmarks.reliability tracker
	$(RUN) benchmarks.reliability tracker --never
	$(RUN) benchmarks.reliability failures
	$(RUN) benchmarks.reliability together -n 5

cluster-check: setup ## the quick start for several hosts (docs/LAUNCHING.md), tried on this machine: minutes
	$(RUN) benchmarks.cluster_check $(ARGS)

doctor: setup ## devices, versions, databases, disk and locks, each with the fix
	$(RUN) src.doctor $(ARGS)

clean: ## remove caches (results in multirun/ and .venv stay)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .coverage .coverage.*
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

help: ## this list
	@awk 'BEGIN {FS = ":.*## "; print "usage: make TARGET [ARGS=\"key=value ...\"]"} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup lock sweep resume claims status worker report ui server sync test lint oracles mutate bench campaign cluster-check doctor clean help
