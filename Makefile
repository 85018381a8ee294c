# `make demo` and `make test` need Python 3.11 and make, nothing else: uv is fetched if it is not there.

SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := $(or $(shell command -v uv 2>/dev/null),.tools/uv/bin/uv)
RUN := .venv/bin
DEMO ?=
TESTS ?=
IN_MINUTES := not soak and not faults and not package and not image and not documents
# More than there are cores, for most tests wait for most of their time; the last ones are taken from each other.
AT_ONCE := -n 4 --dist worksteal
# No test takes a minute by itself. One that hangs, in a worker of the SDK that does not stop, fails instead of all.
LONGEST := --timeout 300
SEEDS ?= 20000
OLDEST := $(CURDIR)/build/oldest
# The machine's own certificates: behind a company's proxy uv's built-in ones are not enough.
export UV_SYSTEM_CERTS ?= true
# Set in many images: without bytecode each of the demo's processes compiles all that it imports, a second of CPU each.
unexport PYTHONDONTWRITEBYTECODE
SERVICES := main-service batcher-service

.DEFAULT_GOAL := help
.PHONY: help setup demo test again oldest lint format docs package image coverage bench faults simulate soak streams pins clean

help: ## show what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.made ## everything into .venv

.venv/.made: pyproject.toml | $(UV)
	$(UV) sync --quiet
	@touch $@

.tools/uv/bin/uv:
	$(PYTHON) -m venv .tools/uv
	.tools/uv/bin/pip install --quiet uv==$(UV_VERSION)

demo: setup ## Temporal, a database, both services, 500 payments and an audit; DEMO="--sink postgresql --keep"
	$(RUN)/temporal-batching demo $(DEMO)

test: setup ## the tests that take minutes at most; TESTS="tests/unit -k settings"
	$(RUN)/pytest $(AT_ONCE) $(LONGEST) -m "$(IN_MINUTES)" $(TESTS)

again: setup ## the tests that failed last, one at a time
	$(RUN)/pytest -n 0 $(LONGEST) -m "$(IN_MINUTES) or documents" --last-failed --last-failed-no-failures none $(TESTS)

oldest: setup ## the library's tests with the oldest versions of its dependencies that pyproject.toml allows
	UV_PROJECT_ENVIRONMENT=$(OLDEST) $(UV) sync --quiet
	cd / && $(abspath $(UV)) pip compile --quiet --no-deps --resolution lowest-direct --all-extras \
		$(CURDIR)/pyproject.toml --output-file $(OLDEST)/direct.txt >/dev/null
	cd / && $(abspath $(UV)) pip install --quiet --python $(OLDEST) --requirements $(OLDEST)/direct.txt "psycopg[binary]"
	$(OLDEST)/bin/pytest $(AT_ONCE) $(LONGEST) -m "$(IN_MINUTES)" tests/unit tests/integration tests/replay $(TESTS)

lint: setup ## ruff, mypy, and the schema of the workflow for GitHub
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy src tests benchmarks scripts
	$(foreach service,$(SERVICES),$(RUN)/mypy $(service) &&) true
	$(RUN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(RUN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose/compose.yaml
	$(RUN)/hadolint deploy/Dockerfile

format: setup ## ruff's fixes and its formatting
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

docs: setup ## the documentation site into build/site, and what the documents show is run; a broken reference fails
	$(RUN)/python scripts/docs.py
	$(RUN)/pytest $(AT_ONCE) $(LONGEST) -m documents tests/acceptance $(TESTS)

package: setup ## build the wheel, install it with each extra into an empty environment, and run the tutorial there
	$(RUN)/pytest -n 0 -m package $(TESTS)

image: setup ## build the container image on a base of Debian's packages, and run it: needs root, debootstrap, podman, runc
	$(RUN)/pytest -n 0 -m image $(TESTS)

coverage: setup ## branch coverage of the unit and integration tests: a figure, and a report in build/coverage/
	$(RUN)/pytest -n 2 -q --cov --cov-report= tests/unit tests/integration $(TESTS)
	$(RUN)/coverage html -q
	$(RUN)/coverage report --format=total | sed 's/^/branch coverage, in percent: /' | tee build/coverage/total.txt

bench: setup ## what batching costs and saves: a table and benchmarks/report/; QUICK=1 BENCH="--only ways"
	QUICK=$(QUICK) $(RUN)/python -m benchmarks $(BENCH)

faults: setup ## kill and restart real processes under load
	$(RUN)/pytest -n 2 -m faults $(TESTS)

simulate: setup ## many random schedules of the batcher's state machine; SEEDS=20000
	$(RUN)/python -m tests.simulation --seeds $(SEEDS)

soak: setup ## processes and servers killed at random under load; ROUNDS=20 SEED=7 DURATION=600
	$(RUN)/python -m tests.soak $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) \
		$(if $(DURATION),--duration $(DURATION))

streams: setup ## a long load through many runs of the batcher, and a short soak
	$(RUN)/pytest -m soak $(TESTS)

pins: setup ## take the newest versions of everything, and pin them in pyproject.toml
	$(RUN)/python scripts/pins.py --clear
	$(UV) lock --quiet --upgrade
	$(RUN)/python scripts/pins.py
	$(UV) sync --quiet

clean: ## remove what make made
	rm -rf .venv .tools dist build .cache .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
