# The Makefile includes this file if the folder exists.
OVERLAY ?= dev

.PHONY: deploy
deploy: ## deploy to the cluster of kubectl's current context (OVERLAY, IMAGE, VERSION, DIGEST)
	@$(PYTHON) deploy/deploy.py deploy {{ cookiecutter.project_slug }} $(OVERLAY) $(ENGINE) $(IMAGE):$(VERSION) $(DIGEST)

.PHONY: undeploy
undeploy: ## delete the deployment, but not its namespace (OVERLAY)
	@$(PYTHON) deploy/deploy.py undeploy {{ cookiecutter.project_slug }} $(OVERLAY)

.PHONY: kind
kind: ## build the image, deploy it to a local kind cluster, and test it
	@$(PYTHON) deploy/deploy.py needs $(ENGINE) kind kubectl
	@$(MAKE) --no-print-directory image VERSION=dev
	@$(PYTHON) deploy/deploy.py kind {{ cookiecutter.project_slug }} $(ENGINE) $(IMAGE):dev
