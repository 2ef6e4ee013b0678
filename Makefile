# Everything sets itself up: a target that needs an environment makes it, and makes it again when
# pyproject.toml or its constraints change. Needs Python 3.11 and make.

PYTHON ?= $(or $(shell command -v python3.11),python3)
PYTEST_ARGS ?= -n 2 --dist worksteal
BIN := .venv/bin
COMPAT := oldest middle

# Tests start hundreds of processes: each would compile all of our modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-long test-compat test-adapters faults simulate lint format stubs stubs-check bench fuzz venv clean

demo: .venv/installed
	$(BIN)/python examples/demo.py

# What reads our exports and speaks to our gateway is installed in this set alone.
NEWEST = MEGAFLOW_TEST_REQUIRE="$(MEGAFLOW_TEST_REQUIRE),anthropic,atif,datasets,openai,pandas" \
	MEGAFLOW_TEST_VERSIONS=newest $(BIN)/python -m pytest $(PYTEST_ARGS)

test: lint
	$(NEWEST) -m "not long"

# What takes more than some seconds each: kills at every point, thousands of seeds, crowds. `faults` has those that
# strike at random points.
test-long: .venv/installed
	$(NEWEST) -m long -k "not points"

# Without what takes long, and what no version of a dependency changes; see tests/conftest.py.
test-compat: $(COMPAT:%=pytest-%)

pytest-%: .venv-%/installed
	MEGAFLOW_TEST_VERSIONS=$* .venv-$*/bin/python -m pytest $(PYTEST_ARGS) -m "not long" $(SUITE_$*)

# Whole but for what is the same on any version of a dependency: sandboxes and their pools, what the operating system
# alone is asked for, simulations and other arithmetic of the orchestrator, what becomes of processes that are killed and
# workers that hang, leak or leave something behind, and whether our own checks would notice a bug.
SUITE_oldest := $(addprefix --ignore=tests/,egress pool sandbox $(addprefix faults/test_, \
	containers_left.py ended_sessions.py hanging_steps.py leaking_workers.py processes_left.py \
	programs_of_environments.py silent_workers.py step_deadlines.py workers_stopped.py) \
	$(addprefix environments_suite/test_,forked_sandboxes.py kept_episodes.py looks_inside.py \
	sandboxes_behind_servers.py shipped_tasks.py snapshots.py verdicts.py) \
	$(addprefix orchestrator/test_,capacity.py fairness.py lease_watch.py packing.py simulation.py store_crowd.py \
	turns.py) backends/test_fake_backend.py backends/test_linux.py backends/test_process_backend.py \
	cli/test_serve_failures.py cli/test_shipped_tasks_run.py orchestrator/test_store_kills.py) \
	$(addprefix --deselect=tests/, $(addprefix orchestrator/test_stores.py::test_, \
	a_store_that_differs_is_noticed examples_go_everywhere) cli/test_serve_runners.py::test_kills_change_no_result \
	examples/test_examples.py::test_demo_that_is_stopped_leaves_nothing)

# This set has another protobuf than the newest, and is the same otherwise.
SUITE_middle := $(addprefix tests/,protocol transport worker gateway hostile)

# What fits megaflow to trainers, each against its framework: RLlib pins gymnasium 1.2.2, so it has its own
# environment. Examples of training run small.
test-adapters: frameworks-adapters frameworks-rllib

frameworks-%: .venv-%/installed-with-torch
	MEGAFLOW_TEST_REQUIRE="$(FRAMEWORKS_$*)" .venv-$*/bin/python -m pytest $(PYTEST_ARGS) tests/adapters

FRAMEWORKS_adapters := dmenv,miniswe,pettingzoo,sb3,tianshou,torchrl,transformers
FRAMEWORKS_rllib := rllib
EXTRAS_adapters := dm-env,mini-swe-agent,pettingzoo,sb3,tianshou,torchrl,transformers
EXTRAS_rllib := rllib

# torch first, in exactly the version there is a small build of: a looser one brings gigabytes for GPUs.
.PRECIOUS: .venv-%/installed-with-torch
.venv-%/installed-with-torch: pyproject.toml tests/constraints/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet torch==2.13.0
	.venv-$*/bin/python -m pip install --quiet --editable '.[test,$(EXTRAS_$*)]' --constraint tests/constraints/$*.txt
	touch $@

# Real faults, at a hundred random points of each kind; says what came of them.
faults: .venv/installed
	MEGAFLOW_TEST_FAULT_POINTS=100 $(BIN)/python -m pytest $(PYTEST_ARGS) -rP -k points tests/faults

# Runs of the orchestrator with seeded faults, each seed another; the suite has 2,000.
SEEDS ?= 10000
simulate: .venv/installed
	PYTHONPATH=server $(BIN)/python -m megaflow_server.orchestrator.simulation $(SEEDS)

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# grpcio-tools pins protobuf below 6, so the script makes an environment for it and throws it away.
stubs:
	$(PYTHON) scripts/generate_stubs.py

stubs-check:
	$(PYTHON) scripts/generate_stubs.py --check

bench: .venv/installed
	$(BIN)/megaflow bench vector

# FUZZ_SECONDS, FUZZ_SEED and FUZZ_CASE: see the script.
fuzz: .venv/installed
	PYTHONPATH=tests $(BIN)/python scripts/fuzz.py

venv: .venv/installed

.venv/installed: pyproject.toml tests/constraints/newest.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint tests/constraints/newest.txt
	touch $@

.PRECIOUS: .venv-%/installed
.venv-%/installed: pyproject.toml tests/constraints/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --editable '.[test]' --constraint tests/constraints/$*.txt
	touch $@

clean:
	rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
