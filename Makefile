# make demo and make test need python3 (3.11 or newer, with venv), make and git; nothing else.

VENV ?= .venv
VENV_PYTHON := $(VENV)/bin/python
TOX := $(VENV)/bin/tox
PIP_OPTIONS := --quiet --disable-pip-version-check
INSTALL := -m pip $(PIP_OPTIONS) install --constraint constraints.txt
SETTINGS := workspace.txt constraints.txt $(wildcard core/pyproject.toml backends/*/pyproject.toml tests/conformance/pyproject.toml \
    examples/transport-redis/pyproject.toml)
BENCH := .venv-bench
BENCH_PYTHON := $(BENCH)/bin/python
# The most informative tests in the least time, without a server; the longest one first, so that no process waits for it.
QUICK := tests/conformance/tests/test_memory.py core backends/memory tests/repository
# What each of several jobs prints stays together, where make can do that (4.0).
TOGETHER := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
STARTERS := rabbitmq redis_server postgresql_server mariadb_server
# Private ones, whose data is in memory, take half the processor time of those that a machine has on its disk.
SERVERS := $(foreach starter,$(STARTERS),$(VENV_PYTHON) tests/servers/$(starter).py --private run --)

# A Python that is named with PYTHON= is used or refused; by default the first that is new enough.
ifeq ($(origin PYTHON),undefined)
PYTHONS := python3 python3.13 python3.12 python3.11 python3.14
else
PYTHONS := $(PYTHON)
endif

.DEFAULT_GOAL := help
.PHONY: help demo demo-cron demo-supervisor check check-lint check-types check-tests test test-all soak test-fresh lint imports types docs mutants \
    bench constraints format dev clean

help: ## List the targets
	@sed -n 's/^\([a-z -]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

demo: $(VENV)/.example ## Upload photographs now, make their thumbnails later; TRANSPORT=postgresql://… for another database
	@$(if $(TRANSPORT),RELEVO_TRANSPORTS__MAIN='$(TRANSPORT)') $(VENV_PYTHON) examples/images/demo.py

demo-cron: $(VENV)/.example ## The same for more than a minute, from a table that cron empties
	@PYTHONPATH=tests/servers $(VENV_PYTHON) examples/images/demo_cron.py

demo-supervisor: $(VENV)/.example ## The same for a minute, from RabbitMQ by workers under supervisor
	@$(VENV_PYTHON) tests/servers/rabbitmq.py run -- sh -c \
	    'exec $(VENV_PYTHON) examples/images/demo_supervisor.py $${RELEVO_TEST_AMQP:+--url "$$RELEVO_TEST_AMQP"}'

check: $(VENV)/.dev ## Check a change within a minute: lint, types, unit tests, the memory suite; needs no server
	@$(MAKE) --no-print-directory --jobs=3 $(TOGETHER) check-lint check-types check-tests

check-lint: $(VENV)/.dev
	@$(VENV)/bin/ruff check --quiet
	@$(VENV)/bin/ruff format --check --quiet
	@$(VENV)/bin/lint-imports --no-logo

check-types: $(VENV)/.dev
	@$(VENV)/bin/mypy

# Tests start interpreters, and without bytecode each compiles relevo, and each worker rewrites the asserts, every time.
check-tests: export PYTHONDONTWRITEBYTECODE :=
check-tests: $(VENV)/.dev
	@$(VENV)/bin/pytest --quiet --numprocesses=auto --dist=worksteal --hypothesis-profile=check -m "not (slow or lengthy or soak or amqp or redis or postgresql or mariadb)" $(QUICK)

test: $(VENV)/.tox ## Run everything that CI runs
	@$(SERVERS) $(VENV_PYTHON) tests/machine/run.py

test-all: demo-cron demo-supervisor $(VENV)/.tox ## Run all tests on every Python and with older libraries, and the slowest ones: soaks, long demos, mutants
	@$(SERVERS) $(VENV_PYTHON) tests/machine/run.py --all
	@PYTHONPATH=. $(VENV_PYTHON) benchmarks/mutants.py --check

soak: $(VENV)/.dev ## Kill dispatchers, relays, workers, RabbitMQ and PostgreSQL 2,000 times, and count the effects
	@$(VENV)/bin/pytest --quiet -m soak tests/integration/test_soak_exactly_once.py tests/integration/test_steps.py

test-fresh: $(VENV)/.workspace ## Run demo and test on a new Debian 13 in a folder, without and with CI=true; needs root
	@PYTHONPATH=tests/servers $(VENV_PYTHON) tests/machine/fresh.py

lint imports types: $(VENV)/.tox ## Run one of the checks alone
	@$(TOX) run -e $@

docs: $(VENV)/.tox ## Build the documentation into docs/_build/html
	@$(TOX) run -e docs
	@echo "docs/_build/html/index.html"

mutants: $(VENV)/.workspace ## Find every planted bug with five seeds, and rewrite the table docs/reference/mutants.md
	@PYTHONPATH=. $(VENV_PYTHON) benchmarks/mutants.py

bench: $(BENCH)/.peers ## Compare it with Celery, Huey, PgQueuer and others, and the drivers alone; OPTIONS="--rounds 5 --check"
	@$(BENCH_PYTHON) benchmarks/dispatch.py
	@$(foreach starter,rabbitmq postgresql_server,$(BENCH_PYTHON) tests/servers/$(starter).py run --) sh -c \
	    'exec $(BENCH_PYTHON) benchmarks/side_by_side.py $${RELEVO_TEST_AMQP:+--amqp "$$RELEVO_TEST_AMQP"} \
	    $${RELEVO_TEST_POSTGRESQL:+--postgresql "$$RELEVO_TEST_POSTGRESQL"} \
	    $${RELEVO_TEST_MARIADB:+--mariadb "$$RELEVO_TEST_MARIADB"} $(OPTIONS)'

constraints: $(VENV)/.workspace ## Pin the newest versions for the tests and tools in constraints.txt
	@$(VENV_PYTHON) -m pip $(PIP_OPTIONS) install --upgrade "pip>=25.1"
	@$(VENV_PYTHON) tests/machine/constraints.py

format: $(VENV)/.tox ## Format the code
	@$(TOX) run -e format

dev: $(VENV)/.dev ## Install everything for an editor into .venv: pytest, ruff, mypy …

clean: ## Remove generated files: environments, caches, the example's files
	rm -rf $(VENV) $(BENCH) .tox .coverage* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis examples/images/var docs/_build
	find . -name __pycache__ -prune -exec rm -rf {} +

# --- the environment: each stamp is one finished step --------------------------------------------

$(VENV_PYTHON):
	@for python in $(PYTHONS); do \
	    if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "making $(VENV) with $$("$$python" --version)"; \
	        exec "$$python" -m venv $(VENV); \
	    fi; \
	done; \
	echo "none of these is Python 3.11 or newer, with venv: $(PYTHONS)" >&2; \
	echo "name one:  make PYTHON=…   (on Debian, venv is the package python3-venv)" >&2; \
	exit 1

$(VENV)/.workspace: $(VENV_PYTHON) $(SETTINGS)
	@echo "installing relevo and its backends into $(VENV)"
	@$(VENV_PYTHON) $(INSTALL) --requirement workspace.txt
	@rm -rf .tox  # tox does not see that a distribution's requirements changed
	@touch $@

$(VENV)/.example: $(VENV)/.workspace examples/images/requirements.txt
	@$(VENV_PYTHON) $(INSTALL) --requirement examples/images/requirements.txt
	@touch $@

$(VENV)/.tox: $(VENV)/.workspace
	@$(VENV_PYTHON) $(INSTALL) tox "psycopg[binary]" pymysql  # with these the starters of servers connect
	@touch $@

$(VENV)/.dev: $(VENV)/.example pyproject.toml
	@$(VENV_PYTHON) $(INSTALL) --upgrade pip  # Debian's pip may be older than 25.1, the first that reads dependency groups
	@$(VENV_PYTHON) $(INSTALL) --group dev
	@$(VENV_PYTHON) $(INSTALL) --editable examples/transport-redis
	@touch $@

# A separate environment: only the benchmark needs the peers and their dependencies.
$(BENCH)/.peers: $(VENV_PYTHON) $(SETTINGS) benchmarks/requirements.txt
	@echo "installing relevo and its peers into $(BENCH)"
	@$(VENV_PYTHON) -m venv $(BENCH)
	@$(BENCH_PYTHON) $(INSTALL) --requirement workspace.txt --requirement benchmarks/requirements.txt
	@touch $@
