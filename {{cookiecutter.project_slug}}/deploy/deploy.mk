# Part of the Makefile as long as this folder is there.
OVERLAY ?= dev

.PHONY: deploy
deploy: ## deploy an overlay to the cluster of kubectl's context (OVERLAY, IMAGE, VERSION or DIGEST)
	@$(PYTHON) deploy/deploy.py deploy {{ cookiecutter.project_slug }} $(OVERLAY) $(ENGINE) $(IMAGE):$(VERSION) $(DIGEST)

.PHONY: undeploy
undeploy: ## take it out again (OVERLAY)
	@$(PYTHON) deploy/deploy.py undeploy {{ cookiecutter.project_slug }} $(OVERLAY)

.PHONY: kind
kind: ## build, deploy and try it in a cluster on this machine, made with kind
	@$(PYTHON) deploy/deploy.py needs $(ENGINE) kind kubectl
	@$(MAKE) --no-print-directory image VERSION=dev
	@$(PYTHON) deploy/deploy.py kind {{ cookiecutter.project_slug }} $(ENGINE) $(IMAGE):dev
