"""`settings`, `openapi` and `routes`: print what the service has, and open no resources."""

from ..api.route_list import ListedRoute, routes_of
from ..app import App
from ..configuration.effective import DEFAULT, effective_settings
from ..settings import ChassisSettings
from .output import json_text, table_text, write


def print_settings(settings: ChassisSettings, *, as_json: bool, only_changed: bool) -> int:
    """Print the settings in effect, and where each value comes from. Secrets are masked. Returns the exit status."""
    shown = [one for one in effective_settings(settings) if not only_changed or one.source != DEFAULT]
    if as_json:
        return write(json_text([setting.document() for setting in shown]))
    rows = [(setting.variable, setting.value, setting.source) for setting in shown]
    return write(table_text([("VARIABLE", "VALUE", "SOURCE"), *rows]))


def print_openapi(app: App) -> int:
    """Print the OpenAPI document, as `/openapi.json` serves it. Returns the exit status."""
    return write(json_text(app.openapi))


def print_routes(app: App, *, as_json: bool) -> int:
    """Print the routes, with what each one needs and allows. Returns the exit status."""
    routes = routes_of(app)
    if as_json:
        return write(json_text([route.document() for route in routes]))
    rows = [(route.method, route.path, route.requires or "", _limits(route), route.handler) for route in routes]
    return write(table_text([("METHOD", "PATH", "REQUIRES", "LIMITS", "HANDLER"), *rows]))


def _limits(route: ListedRoute) -> str:
    """The limits that are its own."""
    limits = list(route.rate_limits)
    if route.deadline_seconds is not None:
        limits.append(f"deadline {route.deadline_seconds:g} s")
    if route.max_body_bytes is not None:
        limits.append(f"body {route.max_body_bytes} bytes")
    return "; ".join(limits if route.sheds_load else [*limits, "never shed"])
