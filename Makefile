# `make` explains the targets. uv is taken from PATH, else installed into .uv; nothing else is needed but Python.
PYTHON ?= python3
UV := $(or $(shell uv --version >/dev/null 2>&1 && command -v uv),$(CURDIR)/.uv/bin/uv)
RUN := $(UV) run --quiet
BAKED := build/order-service
SERVE := cd $(BAKED) && exec $(PYTHON) $(CURDIR)/scripts/run.py
# A virtual environment that happens to be active is not ours.
unexport VIRTUAL_ENV

.PHONY: help
help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

.PHONY: install
install: $(UV)
	@$(UV) sync --quiet

$(CURDIR)/.uv/bin/uv:
	@$(PYTHON) -m venv .uv
	@.uv/bin/python -m pip install --quiet uv

.PHONY: run
run: baked ## render the default service into build/ and start it
	@$(SERVE) .venv/bin/python -m order_service

.PHONY: dev
dev: baked ## the same, rendered and started again whenever the skeleton or the core changes
	@$(SERVE) .venv/bin/watchfiles --filter default --sigint-timeout 30 \
		"sh -c '$(MAKE) --silent -C \"$(CURDIR)\" baked >/dev/null && exec .venv/bin/python -m order_service'" \
		'$(CURDIR)/{{cookiecutter.project_slug}}' '$(CURDIR)/chassis/src' '$(CURDIR)/chassis/pyproject.toml'

.PHONY: check
check: lint types ## the inner loop, two minutes: lint, format, types, the tests of the core
	$(PYTEST) chassis/tests

.PHONY: test
test: lint types ## everything that must pass: the same, and the tests of the template, in ten minutes
	$(PYTEST)

# The tests of a file run on one worker, so that they share what its fixtures have built. Long files are begun first.
PYTEST = $(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: lint
lint: install
	$(RUN) ruff check
	$(RUN) ruff format --check

# pyright as editors run it, with its defaults: on the core, and on the default service.
CHECKED := build/checked
.PHONY: types
types: install
	$(RUN) mypy
	$(RUN) pyright chassis/src
	@rm -rf $(CHECKED)
	@$(RUN) cookiecutter . --no-input --output-dir $(CHECKED) >/dev/null
	cd $(CHECKED)/order-service && $(RUN) --project '$(CURDIR)' pyright src tests scripts deploy
	cd $(CHECKED) && $(RUN) --project '$(CURDIR)' pyright --verifytypes chassis --ignoreexternal >verified.txt || { cat verified.txt; exit 1; }

SECONDS := 600
.PHONY: soak
soak: baked ## ten minutes of mixed load on the default service (SECONDS=600), and what is left over
	@$(RUN) tests/support/soak.py $(BAKED) $(SECONDS)

# What an earlier template had and this one hasn't must go, but an installed environment may stay.
.PHONY: bake
bake: install ## render the default service into build/
	@mkdir -p $(BAKED)
	@find $(BAKED) -mindepth 1 -maxdepth 1 ! -name .venv ! -name uv.lock -exec rm -rf {} +
	@$(RUN) cookiecutter . --no-input --overwrite-if-exists --output-dir build >/dev/null
	@echo 'The default service is in $(BAKED).'

.PHONY: baked
baked: bake
	@cd $(BAKED) && $(UV) sync --quiet

# The Python that all candidates run on.
BENCH_PYTHON ?= $(PYTHON)
.PHONY: bench
bench: install ## measure the service beside its peers (ARGS=--quick, ARGS='--against COMMIT')
	@command -v wrk >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install --yes --quiet=2 wrk >/dev/null; } \
		|| { echo "wrk is missing; on Debian and Ubuntu: sudo apt-get install wrk"; exit 1; }
	@$(RUN) python -m benchmarks.run --python "$$(command -v $(BENCH_PYTHON))" $(ARGS)

.PHONY: bench-overload
bench-overload: install ## measure the response to ten times the load that can be served
	@OVERLOAD_SECONDS=10 $(RUN) pytest -q -s tests/resilience/test_overload.py | grep -v '^{"timestamp"'

.PHONY: bench-bake
bench-bake: install ## measure the time from the command to a service, and to its first response
	@$(RUN) python -m benchmarks.bake 5 $(BENCH_PYTHON)

.PHONY: settings
settings: install ## write docs/settings.md of the skeleton from the settings of the chassis
	@$(RUN) python scripts/settings_page.py

.PHONY: recording
recording: install ## make the README's recording of a terminal again, docs/terminal.svg
	@$(RUN) --with rich python docs/record.py

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .uv .venv build uv.lock
