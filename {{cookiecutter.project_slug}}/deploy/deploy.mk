# The Makefile includes this file if the folder exists.
OVERLAY ?= dev
KIND := $(SCRIPT) deploy/kind.py
LOCAL_IMAGE := docker.io/library/{{ cookiecutter.project_slug }}
{%- if cookiecutter.deploy == "helm" %}
# The namespace of the release: for production the name of the service.
NAMESPACE ?= {{ cookiecutter.project_slug }}$(if $(filter production,$(OVERLAY)),,-$(OVERLAY))
DEPLOY := $(SCRIPT) deploy/helm.py
WHERE = {{ cookiecutter.project_slug }} '$(OVERLAY)' '$(NAMESPACE)'
ASKED = $(if $(filter file,$(origin VERSION)),,VERSION)
{%- else %}
DEPLOY := $(SCRIPT) deploy/deploy.py
WHERE = {{ cookiecutter.project_slug }} '$(OVERLAY)'
# Which of these the caller has set. Otherwise, an image that the overlay names counts more.
ASKED = $(foreach name,IMAGE VERSION,$(if $(filter file,$(origin $(name))),,$(name)))
{%- endif %}
WHAT = --image='$(IMAGE)' --version='$(VERSION)' --digest='$(DIGEST)' --asked='$(ASKED)'
{%- set options = "OVERLAY, NAMESPACE" if cookiecutter.deploy == "helm" else "OVERLAY" %}

.PHONY: deploy
deploy: $(UV) ## deploy to the cluster of kubectl's current context ({{ options }}, IMAGE, VERSION, DIGEST)
	@$(DEPLOY) deploy $(WHERE) $(WHAT)

.PHONY: diff
diff: $(UV) ## show what a deployment would change in the cluster ({{ options }}, IMAGE, VERSION, DIGEST)
	@$(DEPLOY) diff $(WHERE) $(WHAT)

.PHONY: undeploy
undeploy: $(UV) ## delete the deployment, but not its namespace ({{ options }})
	@$(DEPLOY) undeploy $(WHERE)

# kind cannot load an image with attestations, which buildx adds by default.
.PHONY: kind
kind: OVERLAY := dev
kind: $(UV) ## build the image, deploy it to a local kind cluster, and test it
	@$(KIND) needs $(ENGINE) kind kubectl{{ " helm" if cookiecutter.deploy == "helm" }}
	@BUILDX_NO_DEFAULT_ATTESTATIONS=1 $(MAKE) --no-print-directory image IMAGE=$(LOCAL_IMAGE) VERSION=dev
	@tag=$$($(KIND) load {{ cookiecutter.project_slug }} '$(ENGINE)' $(LOCAL_IMAGE):dev) \
		&& $(DEPLOY) deploy $(WHERE) --context=kind-{{ cookiecutter.project_slug }} \
			--image=$(LOCAL_IMAGE) --asked=IMAGE --tag=$$tag \
		&& $(KIND) test {{ cookiecutter.project_slug }} $$tag
