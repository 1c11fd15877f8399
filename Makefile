# Works from a fresh clone: `make sweep` runs the default grid, `make test` runs the tests, `make help` lists all targets.
# ARGS are appended to the command:   make sweep ARGS="data=mnist split.size=4000"
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
ARGS ?=
SWEEP ?= digits-mlp
PORT ?= 5000
MULTIRUN ?= multirun
BENCH ?= step grid ablation scaling
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := $(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements.lock)
RUN := $(BIN)/python -m
COMPILE := $(BIN)/uv pip compile --quiet --universal --no-annotate --no-header --generate-hashes pyproject.toml
# Four workers on two cores: many tests wait for the start of a command.
PYTEST := $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder --durations=10

# The default grid: five size ratios x three class imbalances x two lengths, both regimes, 12 seeds: 720 runs.
GRID := split.ratio=0.1,0.3,1,3,10 split.imbalance=1,5,20 stopping.epochs=5,20

# Parts of the campaign with their options, the long ones first.
CAMPAIGN := kills together@-n@5 powercut@-n@5 tracker tracker@--never tracker@--lost@0.25 failures claims claims@--storage@sqlite \
	claims@--storage@postgresql

# Without cached bytecode, every start recompiles all modules, which takes seconds.
unexport PYTHONDONTWRITEBYTECODE
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

##@ Set-up
setup: $(VENV)/.installed ## create .venv and install the packages that requirements.lock pins

$(VENV)/.installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is required; run make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	@touch $@

ray: $(VENV)/.ray ## install Ray, for launcher=ray (docs/LAUNCHING.md)

$(VENV)/.ray: $(VENV)/.installed requirements-ray.lock
	$(BIN)/uv pip install --quiet --require-hashes --no-deps --python $(BIN)/python -r requirements-ray.lock
	@touch $@

lock: setup ## regenerate requirements.lock, and what Ray needs beyond it, from pyproject.toml
	$(COMPILE) --extra slurm --group dev -o requirements.lock
	$(COMPILE) --extra ray --excludes requirements.lock -o requirements-ray.lock

##@ Measuring
sweep: setup ## compare sequential with combined over the default grid, changed or extended by ARGS
	$(RUN) src.sweep -m $(GRID) $(ARGS)

resume: setup ## resume an interrupted sweep: the same command, with the same ARGS, runs only what is missing
	$(RUN) src.sweep -m $(GRID) $(ARGS)

claims: setup ## test the claims of the discussion: minutes   (ARGS="claim=forgets-d1 data=mnist split.size=5000"; STRONG=1: on photographs, tuned)
	$(RUN) src.claims $(if $(STRONG),strong=true) $(ARGS)

anchors: setup ## compare the laboratory with published rows: 50 minutes   (docs/ANCHORS.md; ARGS="anchor=vandeven-task")
	$(RUN) src.anchors $(ARGS)

advise: setup ## two data sets in, one answer out: retrain, fine-tune, replay or nothing?   (docs/ADVICE.md)
	$(RUN) src.advise $(ARGS)

status: setup ## list the finished, running, waiting and failed cells   (SWEEP=name)
	$(RUN) src.status sweep=$(SWEEP) $(ARGS)

worker: setup ## add workers on this machine to a running sweep   (SWEEP=name)
	$(RUN) src.worker sweep=$(SWEEP) n_workers=auto $(ARGS)

##@ Viewing results
report: setup ## write one self-contained HTML page about a sweep to multirun/SWEEP/report/   (SWEEP=name)
	$(RUN) src.report sweep=$(SWEEP) $(ARGS)

ui: setup ## show the results in MLflow   (PORT=5000)
	$(RUN) src.ui port=$(PORT) $(ARGS)

server: setup ## run an MLflow server for a team (tracking=server)   (PORT=5000 ARGS="storage=postgresql://user@host/db")
	$(RUN) src.ui port=$(PORT) $(ARGS)

sync: setup ## write to MLflow every result on disk that it lacks
	$(RUN) src.sync $(ARGS)

##@ Quality
test: setup style ## run ruff, import-linter, mypy and all tests
	@$(MAKE) --no-print-directory -j 2 types tests

tests: setup ## run all tests; mypy runs next to them in `make test`
	$(PYTEST) $(ARGS)

coverage: setup ## run all tests and report which lines and branches of src they run; takes twice as long
	$(PYTEST) --cov --cov-report=term $(ARGS)

lint: style types ## run ruff, import-linter and mypy

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: setup
	$(BIN)/mypy

oracles: setup ## compare the laboratory with exact results: minutes   (docs/ORACLES.md)
	$(RUN) src.oracles $(ARGS)

mutate: setup ## plant errors and check that the oracles detect them
	$(RUN) benchmarks.mutate

bench: setup ## measure speed: minutes   (docs/PERFORMANCE.md; BENCH="grid" ARGS="repeats=3 many=50", BENCH=gpu)
	@for name in $(BENCH); do $(RUN) benchmarks.$$name $(ARGS) || exit 1; done

gpu-check: setup ## check and measure a GPU and write its table to docs/GPU.md: 8 minutes at most
	$(RUN) benchmarks.gpu_check $(ARGS)

campaign: setup ## inject faults into sweeps, two parts at a time, and check that nothing is lost: 25 minutes   (docs/RELIABILITY.md)
	@$(MAKE) --no-print-directory --keep-going -j 2 --output-sync=target $(addprefix campaign/,$(CAMPAIGN))
	$(RUN) benchmarks.reliability suspended

campaign/%:
	$(RUN) benchmarks.reliability $(subst @, ,$*)

attack: setup ## attack a sweep: hostile names, archives, folders, users, environments, passwords: minutes   (docs/SECURITY.md)
	$(RUN) benchmarks.reliability passwords
	$(PYTEST) -m "slow or not slow" tests/sweep/test_shared_folder.py tests/sweep/test_damaged_files.py tests/test_ui.py tests/test_urls.py \
		tests/test_names_and_urls.py tests/test_terminal.py tests/test_hostile_archives.py tests/test_environment.py \
		tests/test_cli.py tests/data/test_foreign_files.py

cluster-check: setup ray ## run the quick start for several hosts and a Ray cluster (docs/LAUNCHING.md) on this machine: minutes
	$(RUN) benchmarks.cluster_check $(ARGS)
	$(RUN) benchmarks.ray_check

doctor: setup ## check devices, versions, databases, disk and locks; print a fix for each problem
	$(RUN) src.doctor $(ARGS)

clean-store: ## delete all trained stages while no sweep runs; results stay, and what a later run needs is trained again
	@for lock in $(MULTIRUN)/*/processes/*.lock; do \
		test ! -e "$$lock" || flock -n "$$lock" true || { echo "$$lock is held: a sweep runs; stop it first"; exit 1; }; \
	done
	du -sh $(MULTIRUN)/.stages 2> /dev/null || true
	rm -rf $(MULTIRUN)/.stages

clean: ## remove caches (results in multirun/ and .venv stay)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .coverage .coverage.*
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

help: ## print this list
	@awk 'BEGIN {FS = ":.*## "; print "usage: make TARGET [ARGS=\"key=value ...\"]"} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup ray lock sweep resume advise claims anchors status worker report ui server sync test tests coverage lint style types oracles mutate bench gpu-check campaign attack cluster-check doctor clean clean-store help
