# The Makefile includes this file if the folder exists.
OVERLAY ?= dev
DEPLOY := $(SCRIPT) deploy/deploy.py
KIND := $(SCRIPT) deploy/kind.py
LOCAL_IMAGE := docker.io/library/{{ cookiecutter.project_slug }}
# Which of these the caller has set. Otherwise, an image that the overlay names counts more.
ASKED = $(foreach name,IMAGE VERSION,$(if $(filter file,$(origin $(name))),,$(name)))

WANTED = {{ cookiecutter.project_slug }} '$(OVERLAY)' --image='$(IMAGE)' --version='$(VERSION)' --digest='$(DIGEST)' --asked='$(ASKED)'

.PHONY: deploy
deploy: $(UV) ## deploy to the cluster of kubectl's current context (OVERLAY, IMAGE, VERSION, DIGEST)
	@$(DEPLOY) deploy $(WANTED)

.PHONY: diff
diff: $(UV) ## show what a deployment would change in the cluster (OVERLAY, IMAGE, VERSION, DIGEST)
	@$(DEPLOY) diff $(WANTED)

.PHONY: undeploy
undeploy: $(UV) ## delete the deployment, but not its namespace (OVERLAY)
	@$(DEPLOY) undeploy {{ cookiecutter.project_slug }} '$(OVERLAY)'

# kind cannot load an image with attestations, which buildx adds by default.
.PHONY: kind
kind: $(UV) ## build the image, deploy it to a local kind cluster, and test it
	@$(KIND) needs $(ENGINE) kind kubectl
	@BUILDX_NO_DEFAULT_ATTESTATIONS=1 $(MAKE) --no-print-directory image IMAGE=$(LOCAL_IMAGE) VERSION=dev
	@tag=$$($(KIND) load {{ cookiecutter.project_slug }} $(ENGINE) $(LOCAL_IMAGE):dev) \
		&& $(DEPLOY) deploy {{ cookiecutter.project_slug }} dev --context=kind-{{ cookiecutter.project_slug }} \
			--image=$(LOCAL_IMAGE) --asked=IMAGE --tag=$$tag
	@$(KIND) test {{ cookiecutter.project_slug }} {{ cookiecutter.project_slug }}-dev
