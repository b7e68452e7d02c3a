"""Deploys the service with kustomize, and removes it. `make` calls this script.

It changes no file of the repository: a kustomization in .cache/deploy adds the image to the overlay. kubectl uses the
cluster of its current context, whose name is printed first.
"""

import argparse
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

from shared import (
    CACHE,
    FOLDER,
    check_digest,
    check_name,
    current_cluster,
    fail,
    needs,
    output_of,
    parsed,
    pushed_digest,
    without_tag,
)

OVERLAYS = FOLDER / "overlays"
LABEL = "app.kubernetes.io"
NO_DIGEST = "@sha256:" + "0" * 64  # a placeholder in overlays of earlier templates
# Never removed: they hold data, or other services use them.
KEPT = {"Namespace", "PersistentVolumeClaim", "Secret"}
# Removed although this folder may have no manifest of this kind any more.
USUAL = {"ConfigMap", "CronJob", "DaemonSet", "Deployment", "Job", "Role", "RoleBinding", "StatefulSet"}
# A migration needs these: their kinds, and the label `component` of others, such as the database of overlays/dev.
KINDS_BEFORE = {"Namespace", "ConfigMap", "ServiceAccount", "Secret", "ExternalSecret", "SealedSecret"}
COMPONENTS_BEFORE = {"migration", "postgres"}
MIGRATION_SECONDS = 240  # for a Job without activeDeadlineSeconds
POLL_SECONDS = 1
Document = dict[str, Any]


class Manifests:
    """The documents that kustomize renders from a folder."""

    def __init__(self, service: str, folder: Path) -> None:
        self._service = service
        self._folder = folder
        self.text = output_of("kubectl", "kustomize", folder)
        self.documents = as_json(self.text)
        self.server = self._server()

    def _server(self) -> Document:
        """The Deployment of the service. Others, such as workers, have another `component`."""
        wanted = {f"{LABEL}/name": self._service, f"{LABEL}/component": "server"}
        found = [
            one
            for one in self.documents
            if one["kind"] == "Deployment"
            and wanted.items() <= (one["metadata"].get("labels") or {}).items()
            and any(container["name"] == "service" for container in containers(one))
        ]
        if len(found) != 1:
            labels = " and ".join(f"{name}: {value}" for name, value in wanted.items())
            fail(
                f"{self._folder} must have one Deployment with the labels {labels} and a container named `service`, "
                f"as in base/deployment.yaml; it has {len(found)}"
            )
        return found[0]

    @property
    def migration(self) -> Document | None:
        """The Job that migrates the database, if there is one."""
        jobs = (one for one in self.documents if one["kind"] == "Job" and component(one) == "migration")
        return next(jobs, None)

    @property
    def before_migration(self) -> list[Document]:
        """The documents that the migration needs, without its Job."""
        return [
            one
            for one in self.documents
            if one["kind"] != "Job" and (one["kind"] in KINDS_BEFORE or component(one) in COMPONENTS_BEFORE)
        ]

    @property
    def image(self) -> str:
        """The image of the service."""
        (image,) = (one["image"] for one in containers(self.server) if one["name"] == "service")
        return str(image)

    @property
    def name(self) -> str:
        """The name of the Deployment."""
        return str(self.server["metadata"]["name"])

    @property
    def namespace(self) -> str | None:
        """The namespace that the overlay sets. Without one, kubectl uses that of its context."""
        namespace: str | None = self.server["metadata"].get("namespace")
        return namespace

    @property
    def selector(self) -> str:
        """Selects all objects of this overlay, and no others."""
        label = f"{LABEL}/instance"
        instance = self.server["metadata"]["labels"].get(label)
        if instance is None:
            fail(f"{self._folder} does not set the label {label}; add it to `labels`, as in overlays/dev")
        return f"--selector={label}={instance}"

    def with_image(self, name: str, *, version: str | None = None, **image: str) -> "Manifests":
        """The same documents with another image, given by `digest` or `newTag`, and another version label."""
        target = CACHE / "deploy"
        target.mkdir(parents=True, exist_ok=True)
        own = without_tag(self.image)
        changed: Document = {
            "resources": [os.path.relpath(self._folder, target)],
            "images": [{"name": own, "newName": name, **image}],
        }
        if version is not None:
            # A label has fewer characters than a version: 1.0+build becomes 1.0_build.
            value = re.sub(r"[^\w.-]", "_", version)[:63].strip("_.-")
            # Not kustomize's `labels`, which changes all pods: a database would restart at each release.
            workloads = [
                one
                for one in self.documents
                if one["kind"] in {"Deployment", "Job"}
                and own in {without_tag(each["image"]) for each in containers(one)}
            ]
            changed["patches"] = [version_patch(one, value) for one in workloads]
        (target / "kustomization.yaml").write_text(json.dumps(changed, indent=2), encoding="utf-8")  # JSON is YAML
        return Manifests(self._service, target)


def as_json(text: str) -> list[Document]:
    """Documents of YAML. kubectl reads them, so that no YAML library is needed: it removes a label that none has."""
    command = ["kubectl", "label", "--local", "--filename=-", "--output=json", "none-"]
    done = subprocess.run(command, check=False, input=text, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        fail("kubectl cannot read the manifests; see its message above")
    documents, rest = [], done.stdout.lstrip()
    while rest:
        document, end = json.JSONDecoder().raw_decode(rest)
        documents.append(document)
        rest = rest[end:].lstrip()
    return documents


def as_list(documents: list[Document]) -> str:
    """Documents as one text for kubectl."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})


def version_patch(workload: Document, version: str) -> Document:
    """A patch that labels a Deployment or a Job, and its pods, with a version."""
    kind, name = workload["kind"], workload["metadata"]["name"]
    meta = {"labels": {f"{LABEL}/version": version}}
    patch = {
        "apiVersion": workload["apiVersion"],
        "kind": kind,
        "metadata": {"name": name, **meta},
        "spec": {"template": {"metadata": meta}},
    }
    return {"patch": json.dumps(patch), "target": {"kind": kind, "name": f"^{re.escape(name)}$"}}


def component(document: Document) -> str | None:
    """The label `component` of an object."""
    labels: dict[str, str] = document["metadata"].get("labels") or {}
    return labels.get(f"{LABEL}/component")


def containers(workload: Document) -> list[Document]:
    """The containers of a Deployment or a Job."""
    found: list[Document] = workload["spec"]["template"]["spec"]["containers"]
    return found


class Cluster:
    """kubectl, with the namespace of an overlay."""

    def __init__(self, manifests: Manifests, context: str | None) -> None:
        self._manifests = manifests
        self._context = [f"--context={context}"] if context else []
        # Not for `apply` and `diff`: an overlay may have objects in several namespaces.
        self._where = [*self._context, *([f"--namespace={manifests.namespace}"] if manifests.namespace else [])]
        name = context or current_cluster()
        self.name = f"namespace {manifests.namespace} of {name}" if manifests.namespace else name

    def call(self, *arguments: str) -> int:
        """Call kubectl in the namespace of the overlay, and show its output; returns its exit status."""
        return subprocess.run(["kubectl", *self._where, *arguments], check=False).returncode

    def send(self, command: str, documents: list[Document] | None = None) -> int:
        """Call kubectl with the manifests, or with some documents, and show its output; returns its exit status."""
        arguments = ["kubectl", *self._context, command, "--filename=-"]
        text = self._manifests.text if documents is None else as_list(documents)
        return subprocess.run(arguments, check=False, input=text, text=True).returncode

    def read(self, *arguments: str) -> str:
        """The output of kubectl; exits with an error if it fails."""
        return output_of("kubectl", *self._where, *arguments)

    def objects(self, kinds: list[str]) -> tuple[list[Document], bool]:
        """The objects of the overlay's instance that have one of these kinds, and whether all kinds could be listed."""
        command = ["kubectl", *self._where, "get", ",".join(kinds), self._manifests.selector, "--output=json"]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        items: list[Document] = json.loads(done.stdout)["items"] if done.stdout.strip() else []
        return items, done.returncode == 0

    def completes(self, job: Document) -> bool:
        """Wait for the end of a Job; returns whether it was successful."""
        # Kubernetes deletes the pods of a Job that takes too long. Their log is read before.
        until = time.monotonic() + job["spec"].get("activeDeadlineSeconds", MIGRATION_SECONDS) - 5
        while True:
            found, known = self.objects(["jobs.batch"])
            if not known:
                fail("kubectl get failed; see its message above")
            conditions = {
                condition["type"]
                for one in found
                if one["metadata"]["name"] == job["metadata"]["name"]
                for condition in one.get("status", {}).get("conditions", [])
                if condition["status"] == "True"
            }
            if conditions & {"Complete", "Failed"} or time.monotonic() > until:
                return "Complete" in conditions
            time.sleep(POLL_SECONDS)

    def kinds(self) -> list[str]:
        """The kinds that this folder has manifests of, and that the cluster serves."""
        known = set(USUAL)
        for path in FOLDER.glob("**/*.yaml"):
            known |= set(re.findall(r"^kind: (\w+)$", path.read_text(encoding="utf-8"), re.MULTILINE))
        served = []
        for line in filter(None, self.read("api-resources", "--namespaced", "--no-headers").splitlines()):
            # NAME, optional SHORTNAMES, APIVERSION, NAMESPACED, KIND
            name, *_, version, _, kind = line.split()
            group = version.rpartition("/")[0]
            if kind in known - KEPT:
                served.append(f"{name}.{group}" if group else name)
        return served

    def outdated(self, keep: list[Document]) -> list[tuple[str, str]]:
        """Kinds and names of the objects of this instance that `kubectl apply` made, but not of those in `keep`."""
        kept = {(one["kind"], one["metadata"]["name"]) for one in keep}
        # `rollout undo` needs the ConfigMaps of earlier ReplicaSets.
        users, known = self.objects(["replicasets.apps", "pods"]) if keep else ([], True)
        used = json.dumps(users)
        found, complete = self.objects(self.kinds())
        if not complete or not known:
            print("warning: some kinds cannot be listed, see above; their objects are kept", flush=True)
        outdated = []
        for one in found:
            kind, meta = one["kind"], one["metadata"]
            applied = "kubectl.kubernetes.io/last-applied-configuration" in meta.get("annotations", {})
            in_use = kind == "ConfigMap" and (not known or f'"{meta["name"]}"' in used)
            if applied and not meta.get("ownerReferences") and (kind, meta["name"]) not in kept and not in_use:
                group = one["apiVersion"].rpartition("/")[0]
                outdated.append((f"{kind.lower()}.{group}" if group else kind.lower(), meta["name"]))
        return outdated

    def remove(self, keep: list[Document]) -> None:
        """Delete the outdated objects."""
        for kind, name in self.outdated(keep):
            if self.call("delete", kind, name):
                fail("kubectl delete failed; see its message above")


def overlay_folder(overlay: str) -> Path:
    """The folder of an overlay."""
    needs("kubectl")
    if not (OVERLAYS / overlay / "kustomization.yaml").is_file():
        found = ", ".join(sorted(one.parent.name for one in OVERLAYS.glob("[a-z]*/kustomization.yaml")))
        fail(f"overlay {overlay!r} does not exist; set OVERLAY to one of: {found}")
    return OVERLAYS / overlay


def with_wanted_image(manifests: Manifests, given: argparse.Namespace) -> Manifests:
    """The manifests with the image that the caller asks for."""
    asked = given.asked.split()
    # The overlay's own registry counts more than the default of the Makefile.
    own = without_tag(manifests.image)
    name = own if "/" in own and "IMAGE" not in asked else given.image
    check_name(name)
    if given.tag:
        return manifests.with_image(name, newTag=given.tag, version=given.tag)
    if given.digest:
        check_digest(given.digest)
        # The digest may be that of an older image, so its version is known only if it was given too.
        return manifests.with_image(name, digest=given.digest, version=given.version if "VERSION" in asked else None)
    if manifests.image != own and not manifests.image.endswith(NO_DIGEST) and not asked:
        return manifests  # the overlay has a tag or a digest
    digest = pushed_digest(f"{name}:{given.version}")
    return manifests.with_image(name, digest=digest, version=given.version)


def deploy(given: argparse.Namespace) -> None:
    """Apply an overlay, wait until the new pods are ready, and remove objects of earlier deployments."""
    manifests = with_wanted_image(Manifests(given.service, overlay_folder(given.overlay)), given)
    cluster = Cluster(manifests, given.context)
    print(f"Deploying {manifests.image} to {cluster.name}", flush=True)
    deployment = f"deployment/{manifests.name}"
    check_running(cluster, manifests)
    migrate(cluster, manifests)
    if cluster.send("apply"):
        fail("kubectl apply failed; see its message above")
    # Waits for `progressDeadlineSeconds` of the Deployment at most.
    if cluster.call("rollout", "status", deployment):
        for look in (["get", "pods", "--output=wide"], ["describe", "pods"], ["logs", "--tail=50", "--prefix"]):
            cluster.call(*look, manifests.selector)
        fail(f"the new pods of {deployment} are not ready; see their events and logs above")
    cluster.remove(keep=manifests.documents)


def migrate(cluster: Cluster, manifests: Manifests) -> None:
    """Run the Job that migrates the database, if there is one; exits before the pods are changed if it fails."""
    job = manifests.migration
    if job is None:
        return
    name = f"job/{job['metadata']['name']}"
    before = manifests.before_migration
    if cluster.send("apply", before):
        fail("kubectl apply failed; see its message above")
    for one in before:
        needed = f"{one['kind'].lower()}/{one['metadata']['name']}"
        if one["kind"] in {"Deployment", "StatefulSet"} and cluster.call("rollout", "status", needed):
            fail(f"{needed} is not ready, and {name} needs it; see the message above")
    # A Job cannot be changed. `foreground` waits until the pods of the last one are gone too.
    if cluster.call("delete", name, "--ignore-not-found", "--cascade=foreground"):
        fail("kubectl delete failed; see its message above")
    if cluster.send("apply", [job]):
        fail("kubectl apply failed; see its message above")
    print(f"Waiting for {name}, which migrates the database", flush=True)
    if not cluster.completes(job):
        pods = f"--selector=batch.kubernetes.io/job-name={job['metadata']['name']}"
        for look in (["describe", name], ["get", "pods", pods], ["logs", "--tail=50", "--prefix", pods]):
            cluster.call(*look)
        fail(f"{name} has not migrated the database, so no pod was changed; see its events and log above")


def diff(given: argparse.Namespace) -> None:
    """Show what a deployment would change in the cluster."""
    manifests = with_wanted_image(Manifests(given.service, overlay_folder(given.overlay)), given)
    cluster = Cluster(manifests, given.context)
    print(f"Comparing {manifests.image} with {cluster.name}", flush=True)
    # Exit status 1 says that there are differences, and a higher one that it failed.
    job = manifests.migration
    if cluster.send("diff", [one for one in manifests.documents if one is not job] if job else None) > 1:
        fail("kubectl diff failed; see its message above")
    if job:
        print(f"A deployment runs first: job.batch/{job['metadata']['name']}")
    for kind, name in cluster.outdated(keep=manifests.documents):
        print(f"A deployment deletes: {kind}/{name}")


def check_running(cluster: Cluster, manifests: Manifests) -> None:
    """Exit before anything is applied if the cluster has another Deployment of this instance, or another selector."""
    running, _ = cluster.objects(["deployments.apps"])
    names = {one["metadata"]["name"] for one in manifests.documents if one["kind"] == "Deployment"}
    where = f" --namespace={manifests.namespace}" if manifests.namespace else ""
    for one in running:
        name, labels = one["metadata"]["name"], one["metadata"]["labels"]
        if name not in names and labels.get(f"{LABEL}/component", "server") == "server":
            label = f"{LABEL}/instance: {labels[f'{LABEL}/instance']}"
            fail(
                f"deployment/{name} has the label {label} too, and this deployment would delete it; give this overlay "
                f"another value of the label, or delete the other one first: kubectl{where} delete deployment {name}"
            )
        if name == manifests.name and one["spec"]["selector"] != manifests.server["spec"]["selector"]:
            # Kubernetes rejects the change.
            fail(
                f"the selector of deployment/{name} is another one in the cluster, and cannot be changed; delete the "
                f"Deployment without its pods, and deploy again; the pods keep running until then: "
                f"kubectl{where} delete deployment {name} --cascade=orphan"
            )


def undeploy(given: argparse.Namespace) -> None:
    """Delete all objects of an overlay, but not its namespace, its Secrets and its volumes."""
    manifests = Manifests(given.service, overlay_folder(given.overlay))
    cluster = Cluster(manifests, given.context)
    print(f"Deleting {manifests.name} from {cluster.name}", flush=True)
    cluster.remove(keep=[])
    if manifests.namespace:
        namespace = manifests.namespace
        print(f"The namespace was kept. To delete it with everything in it: kubectl delete namespace {namespace}")


if __name__ == "__main__":
    arguments = parsed(__doc__, service="name of the service", overlay="name of a folder in overlays/")
    {"deploy": deploy, "diff": diff, "undeploy": undeploy}[arguments.command](arguments)
