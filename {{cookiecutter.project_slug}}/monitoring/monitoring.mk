# The Makefile includes this file if the folder exists.
COMPOSE = $(ENGINE) compose --file monitoring/compose.yaml

.PHONY: observe
observe: ## start the service with Prometheus, Grafana and Jaeger in local containers
	@$(ENGINE) compose version >/dev/null 2>&1 || { echo "error: docker compose is not installed; see https://docs.docker.com/compose/install/"; exit 1; }
	@$(MAKE) --no-print-directory image VERSION=local
	@SERVICE_IMAGE=$(IMAGE):local $(COMPOSE) up --detach --wait
	@printf '  %-12s %s\n' service http://127.0.0.1:8000/docs Grafana http://127.0.0.1:3000 \
		Prometheus http://127.0.0.1:9090 Jaeger http://127.0.0.1:16686 'to stop:' 'make observe-down'

.PHONY: observe-down
observe-down: ## stop these containers and delete their data
	@$(COMPOSE) down --volumes
