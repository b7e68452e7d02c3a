"""Whether fault injection may be on in the place where the service runs."""

from collections.abc import Mapping

LOCAL = "local"
SWITCH, PLACE = "APP_FAULT_INJECTION", "APP_FAULT_INJECTION_NAMESPACE"


def rejection_reason(accepted: str, environment: Mapping[str, str]) -> str | None:
    """Why fault injection is not accepted here, in one sentence; None if it is.

    `accepted` is the namespace that the settings name. The pod's own one comes from the platform. So a copy of the
    settings of staging does not switch faults on in production.
    """
    place = environment.get("POD_NAMESPACE", "")
    if not place and "KUBERNETES_SERVICE_HOST" in environment:
        return (
            f"{SWITCH} is on, but the namespace of the pod is unknown; "
            f"set POD_NAMESPACE from metadata.namespace in the manifest, or remove {SWITCH}"
        )
    place = place or LOCAL
    if accepted == place:
        return None
    return (
        f"{SWITCH} is on and {PLACE} accepts it in {accepted!r}, "
        f"but the service runs in {place!r}; remove {SWITCH} here"
    )
