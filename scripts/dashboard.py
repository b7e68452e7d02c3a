"""Generates the Grafana dashboard of a service, `monitoring/grafana/service.json` of the skeleton.

The builders of Grafana's foundation SDK know which fields a dashboard may have.
"""

import json
from itertools import count
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

FILE = Path(__file__).parents[1] / "{{cookiecutter.project_slug}}/monitoring/grafana/service.json"
# Rendered by cookiecutter. The rest of the file is text: legends such as {{route}} are Grafana's.
TITLE = "{{ cookiecutter.project_name | tojson }}"
SLUG = "{{ cookiecutter.project_slug }}"

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
OF = 'job="$job",namespace=~"$namespace"'
# Without probes and scrapes: most of them succeed, in a millisecond.
REQUESTS = OF + ',http_route!~"/(healthz|readyz|metrics|info)"'
FAILED = REQUESTS + ',http_response_status_code=~"5..",http_response_status_code!="501"'
COUNT = "http_server_request_duration_seconds_count"
BUCKET = "http_server_request_duration_seconds_bucket"
INSTANCE = "{{pod}} {{instance}}"  # only Kubernetes has pods

Query = tuple[str, str]
"""An expression, and the legend of its series."""
ids = count(1)


def rate(metric: str, labels: str = OF, by: str = "") -> str:
    """The rate of a counter, summed up over all instances."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{labels}}}[$__rate_interval]))"


def quantile(share: float, metric: str, labels: str = OF, by: str = "") -> str:
    """A percentile of a histogram."""
    return f"histogram_quantile({share}, {rate(metric, labels, f'le, {by}' if by else 'le')})"


def percentiles(metric: str, labels: str = OF) -> list[Query]:
    return [(quantile(share / 100, metric, labels), f"p{share}") for share in (50, 95, 99)]


def graph(title: str, unit: str, *queries: Query, exemplars: bool = False, description: str = "") -> timeseries.Panel:
    """A panel with lines, half as wide as the page."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = (
        timeseries.Panel()
        .id(next(ids))
        .title(title)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(12)
        .height(8)
        .fill_opacity(10)
    )
    panel.legend(legend.show_legend(True)).tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    if description:
        panel.description(description)
    for ref_id, (expression, name) in zip("ABCDEF", queries, strict=False):
        query = prometheus.Dataquery().ref_id(ref_id).expr(expression).legend_format(name).datasource(SOURCE).range()
        panel.with_target(query.exemplar(True) if exemplars else query)
    return panel


def figure(title: str, unit: str, expression: str) -> stat.Panel:
    """A panel with one number."""
    query = prometheus.Dataquery().ref_id("A").expr(expression).legend_format(title).datasource(SOURCE).range()
    last = common.ReduceDataOptions().calcs(["lastNotNull"])
    panel = stat.Panel().reduce_options(last).id(next(ids)).title(title).datasource(SOURCE).unit(unit).span(6).height(4)
    return panel.with_target(query)


def variables() -> list[dashboard.DatasourceVariable | dashboard.QueryVariable]:
    """The choices at the top of the page."""
    everything = VariableOption(selected=True, text="All", value="$__all")
    labels = f'build_info{{service="{SLUG}"}}'
    return [
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"),
        variable("namespace", "Namespace", labels).multi(True).include_all(True).all_value(".*").current(everything),
        variable("job", "Job", f'build_info{{service="{SLUG}",namespace=~"$namespace"}}'),
    ]


def variable(name: str, label: str, series: str) -> dashboard.QueryVariable:
    made = dashboard.QueryVariable(name).label(label).datasource(SOURCE).hide(VariableHide.DONT_HIDE)
    query: dict[str, object] = {"query": f"label_values({series}, {name})", "refId": name}
    return made.query(query).refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)


def rows() -> dict[str, list[timeseries.Panel | stat.Panel]]:
    """The panels of each row."""
    client = "http_client_request_duration_seconds"
    attempts = rate(f"{client}_count", by="server_address")
    failed_attempts = rate(f"{client}_count", OF + ',error_type!=""', "server_address")
    calls = "dependency_call_duration_seconds"
    # A call that is cancelled has not failed: its own client has disconnected.
    failed_calls = rate(f"{calls}_count", OF + ',error_type!~"|.*CancelledError"', "dependency, error_type")
    failures = f"{rate(COUNT, FAILED)} / {rate(COUNT, REQUESTS)}"
    return {
        "Overview": [
            figure("Instances that are ready", "short", f"sum(service_ready{{{OF}}})"),
            figure("Requests per second", "reqps", rate(COUNT, REQUESTS)),
            figure("Share of failed requests", "percentunit", f"{failures} or 0 * {rate(COUNT, REQUESTS)}"),
            figure("99th percentile latency", "s", quantile(0.99, BUCKET, REQUESTS)),
        ],
        "Traffic": [
            graph("Requests per second, by route", "reqps", (rate(COUNT, REQUESTS, "http_route"), "{{http_route}}")),
            graph(
                "Requests per second, by status",
                "reqps",
                (rate(COUNT, REQUESTS, "http_response_status_code"), "{{http_response_status_code}}"),
                description="Without a status, the client disconnected before a response started.",
            ),
            graph(
                "Bytes per second",
                "Bps",
                (rate("http_server_request_body_size_bytes_sum", REQUESTS), "received"),
                (rate("http_server_response_body_size_bytes_sum", REQUESTS), "sent"),
            ),
            graph(
                "Running versions",
                "short",
                (f"sum by (version, commit) (build_info{{{OF}}})", "{{version}} {{commit}}"),
            ),
        ],
        "Errors": [
            graph(
                "Share of failed requests, by status",
                "percentunit",
                (
                    f"{rate(COUNT, FAILED, 'http_response_status_code')} / on () group_left () {rate(COUNT, REQUESTS)}",
                    "{{http_response_status_code}}",
                ),
            ),
            graph(
                "Failed requests per second, by route and error",
                "reqps",
                (rate(COUNT, FAILED, "http_route, error_type"), "{{http_route}} {{error_type}}"),
            ),
        ],
        "Latency": [
            graph("Latency percentiles", "s", *percentiles(BUCKET, REQUESTS), exemplars=True),
            graph(
                "99th percentile latency, by route",
                "s",
                (quantile(0.99, BUCKET, REQUESTS, "http_route"), "{{http_route}}"),
                exemplars=True,
            ),
        ],
        "Saturation": [
            graph(
                "Requests in progress",
                "short",
                (f"sum(http_server_active_requests{{{OF}}})", "in progress"),
                (f"sum(http_server_max_requests{{{OF}}}) > 0", "limit"),
            ),
            graph(
                "Threads of handlers",
                "short",
                (f"sum(handler_threads{{{OF}}})", "in use"),
                (f"sum(handler_threads_max{{{OF}}})", "limit"),
            ),
            graph(
                "CPU in cores, by instance", "short", (rate("process_cpu_seconds_total", by="pod, instance"), INSTANCE)
            ),
            graph(
                "Memory, by instance",
                "bytes",
                (f"max by (pod, instance) (process_resident_memory_bytes{{{OF}}})", INSTANCE),
            ),
            graph(
                "Open file descriptors, share of the limit, by instance",
                "percentunit",
                (f"max by (pod, instance) (process_open_fds{{{OF}}} / process_max_fds{{{OF}}})", INSTANCE),
            ),
            graph(
                "Dropped log lines and spans per second",
                "short",
                (rate("log_lines_dropped_total"), "log lines"),
                (rate("spans_dropped_total"), "spans"),
            ),
        ],
        "Event loop": [
            graph("Event loop lag", "s", *percentiles("event_loop_lag_seconds_bucket")),
            graph(
                "99th percentile of event loop lag, by instance",
                "s",
                (quantile(0.99, "event_loop_lag_seconds_bucket", by="pod, instance"), INSTANCE),
            ),
        ],
        "Shedding": [
            graph(
                "Shed requests per second, by reason",
                "reqps",
                (rate("http_server_shed_requests_total", by="reason"), "{{reason}}"),
            ),
            graph(
                "Timed-out and interrupted requests per second",
                "reqps",
                (rate("http_server_timed_out_requests_total", by="reason"), "timed out: {{reason}}"),
                (rate("http_server_interrupted_requests_total"), "interrupted by a shutdown"),
            ),
        ],
        "Dependencies": [
            graph(
                "Instances on which a readiness check passes",
                "short",
                (f"sum by (check) (readiness_check_passed{{{OF}}})", "{{check}}"),
            ),
            graph(
                "Calls per second, by dependency",
                "reqps",
                (rate(f"{calls}_count", by="dependency"), "{{dependency}}"),
                description="A call is counted once, however many attempts it needs.",
            ),
            graph(
                "Share of failed calls, by dependency and error",
                "percentunit",
                (
                    f"{failed_calls} / on (dependency) group_left () {rate(f'{calls}_count', by='dependency')}",
                    "{{dependency}} {{error_type}}",
                ),
            ),
            graph(
                "95th percentile latency of calls, by dependency",
                "s",
                (quantile(0.95, f"{calls}_bucket", by="dependency"), "{{dependency}}"),
                exemplars=True,
            ),
            graph(
                "Retries and hedges per second, by dependency",
                "reqps",
                (
                    rate("dependency_attempts_total", OF + ',kind!="first"', "dependency, kind"),
                    "{{dependency}} {{kind}}",
                ),
                (
                    rate("dependency_retries_denied_total", by="dependency, reason"),
                    "{{dependency}} not made: {{reason}}",
                ),
            ),
            graph(
                "Instances with an open circuit breaker, by dependency",
                "short",
                (f"sum by (dependency) (dependency_breaker_state{{{OF}}} == bool 2)", "{{dependency}}"),
                description="Between two probes, no calls are made.",
            ),
            graph(
                "Calls in progress and waiting, by dependency",
                "short",
                (f"sum by (dependency) (dependency_calls_in_progress{{{OF}}})", "{{dependency}}"),
                (f"sum by (dependency) (dependency_calls_waiting{{{OF}}})", "{{dependency}} waiting"),
                (f"sum by (dependency) (dependency_max_calls{{{OF}}})", "{{dependency}} limit"),
            ),
            graph(
                "Calls that were not made per second, by dependency and reason",
                "reqps",
                (rate("dependency_calls_rejected_total", by="dependency, reason"), "{{dependency}} {{reason}}"),
            ),
            graph(
                "Replicas, by dependency",
                "short",
                (
                    f'max by (dependency) (dependency_replicas{{{OF},state="available"}})',
                    "{{dependency}} available",
                ),
                (f'max by (dependency) (dependency_replicas{{{OF},state="ejected"}})', "{{dependency}} ejected"),
                description="The highest number that one instance has found.",
            ),
            graph(
                "HTTP requests to other services per second, by server",
                "reqps",
                (attempts, "{{server_address}}"),
                description="Each attempt of a call, and the requests of `http_client`.",
            ),
            graph(
                "Share of failed HTTP requests, by server",
                "percentunit",
                (
                    f"{failed_attempts} / {attempts}",
                    "{{server_address}}",
                ),
            ),
            graph(
                "99th percentile latency of HTTP requests, by server",
                "s",
                (quantile(0.99, f"{client}_bucket", by="server_address"), "{{server_address}}"),
                exemplars=True,
            ),
        ],
        "Background work": [
            graph(
                "Failures per second, by task",
                "short",
                (rate("background_tasks_failed_total", by="task"), "{{task}}"),
                (rate("periodic_task_failures_total", by="task"), "{{task}} (periodic)"),
            ),
            graph(
                "Time since the last success, by periodic task",
                "s",
                (f"time() - max by (task) (periodic_task_last_success_timestamp_seconds{{{OF}}})", "{{task}}"),
            ),
        ],
    }


def generate() -> str:
    """The text of the file."""
    made = dashboard.Dashboard(TITLE).uid(SLUG).tags(["cookiecutter-chassis"]).timezone("browser").refresh("30s")
    made.time("now-1h", "now").tooltip(DashboardCursorSync.CROSSHAIR).editable().variables([*variables()])
    for title, panels in rows().items():
        made.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            made.with_panel(panel)
    text = json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True)
    for rendered, marker in ((TITLE, f'"{TITLE}"'), (SLUG, SLUG)):
        text = text.replace(marker, f"{{% endraw %}}{rendered}{{% raw %}}")
    return f"{{% raw %}}{text}{{% endraw %}}\n"


if __name__ == "__main__":
    FILE.write_text(generate(), encoding="utf-8", newline="\n")
