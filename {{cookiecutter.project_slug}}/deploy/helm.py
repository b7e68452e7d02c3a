"""Deploys the service with helm, and removes it. `make` calls this script.

It changes no file of the repository. helm and kubectl use the cluster of kubectl's current context, whose name is
printed first.
"""

import argparse
import os
import subprocess

from shared import FOLDER, check_digest, check_name, current_cluster, fail, needs, output_of, parsed, pushed_digest

# For the migration of the database, and for the pods. The Job of the migration has less time.
ROLLOUT_TIMEOUT = "5m"
MIGRATION = FOLDER / "chart/templates/migration.yaml"


def flags(given: argparse.Namespace) -> list[str]:
    """The flags of helm and kubectl that say where."""
    return [f"--namespace={given.namespace}"]


def chart(given: argparse.Namespace) -> list[str]:
    """The arguments of helm that say what: release, chart, values and image."""
    values = FOLDER / f"values-{given.overlay}.yaml"
    if not values.is_file():
        found = ", ".join(sorted(one.stem.removeprefix("values-") for one in FOLDER.glob("values-*.yaml")))
        fail(f"deploy/{values.name} does not exist; set OVERLAY to one of: {found}")
    check_name(given.image)
    image = {"image.repository": given.image}
    if given.tag:
        image["image.tag"] = image["version"] = given.tag
    elif given.digest:
        check_digest(given.digest)
        image["image.digest"] = given.digest
    else:
        image["image.digest"] = pushed_digest(f"{given.image}:{given.version}")
    # The digest may be that of an older image, so its version is known only if it was given too.
    if given.version and not given.tag:
        image["version"] = given.version if not given.digest or given.asked else "unknown"
    settings = [f"--set-string={name}={value}" for name, value in image.items()]
    # Relative paths, because a comma in the path of the folder would separate two files.
    here = os.path.relpath(FOLDER)
    return [given.service, f"{here}/chart", f"--values={here}/{values.name}", *settings]


def deploy(given: argparse.Namespace) -> None:
    """Install or upgrade the release, and wait until the new pods are ready."""
    arguments = chart(given)
    output_of("helm", "template", *flags(given), *arguments)  # fails before anything is changed
    print(f"Deploying {given.service} to namespace {given.namespace} of {cluster(given)}", flush=True)
    context = [f"--kube-context={given.context}"] if given.context else []
    upgrade = ["helm", "upgrade", "--install", "--create-namespace", "--wait", f"--timeout={ROLLOUT_TIMEOUT}"]
    if subprocess.run([*upgrade, *context, *flags(given), *arguments], check=False).returncode:
        kubectl = ["kubectl", *([f"--context={given.context}"] if given.context else []), *flags(given)]
        pods = f"--selector=app.kubernetes.io/instance={given.service}"
        for look in (["get", "pods", "--output=wide"], ["describe", "pods"], ["logs", "--tail=50", "--prefix"]):
            subprocess.run([*kubectl, *look, pods], check=False)
        fail("helm upgrade failed; see its message, and the events and logs of the pods above")


def diff(given: argparse.Namespace) -> None:
    """Show what a deployment would change in the cluster."""
    # Without the Job that migrates the database: Kubernetes rejects a changed Job, also when nothing is stored.
    manifests = output_of("helm", "template", "--no-hooks", *flags(given), *chart(given))
    print(f"Comparing {given.service} with namespace {given.namespace} of {cluster(given)}", flush=True)
    command = ["kubectl", *flags(given), "diff", "--filename=-"]
    # Exit status 1 says that there are differences, and a higher one that it failed.
    if subprocess.run(command, check=False, input=manifests, text=True).returncode > 1:
        fail("kubectl diff failed; see its message above")


def undeploy(given: argparse.Namespace) -> None:
    """Uninstall the release. The namespace and the Secrets in it stay."""
    print(f"Deleting {given.service} from namespace {given.namespace} of {cluster(given)}", flush=True)
    output_of("helm", "uninstall", given.service, *flags(given), "--ignore-not-found")
    if MIGRATION.is_file():  # Helm does not delete the objects of hooks
        label = "app.kubernetes.io"
        objects = f"--selector={label}/instance={given.service},{label}/component=migration"
        output_of("kubectl", "delete", "jobs,serviceaccounts,networkpolicies", objects, *flags(given))
    print(f"The namespace was kept. To delete it with everything in it: kubectl delete namespace {given.namespace}")


def cluster(given: argparse.Namespace) -> str:
    """The name of the cluster."""
    return str(given.context or current_cluster())


if __name__ == "__main__":
    arguments = parsed(
        __doc__,
        service="name of the service, and of the release",
        overlay="which values: deploy/values-<overlay>.yaml",
        namespace="namespace of the release",
    )
    needs("helm", "kubectl")
    if not arguments.namespace:
        fail("NAMESPACE is empty; set it to the namespace of the release, or remove it to use the default")
    {"deploy": deploy, "diff": diff, "undeploy": undeploy}[arguments.command](arguments)
