"""The alerts and recording rules: `promtool test rules` on what Prometheus sees of a service in each situation."""

import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from bakery import TEMPLATE, render, run
from client_metrics import client_metrics
from conftest import Bake, Start
from running import Service, needs

JOB = "order-service"
Series = dict[str, str]
Rules = dict[str, Any]
# The requests of a minute: of clients, and of probes and scrapes.
STEADY, FEW = 600, 24
HOURS = 60  # in minutes
UP = f"1x{12 * HOURS}"
# All failures fill the windows of both alerts while Prometheus knows the service for less than a day.
BURNING = ["ErrorBudgetBurnFast", "ErrorBudgetBurnSlow"]
# The share of timers that were at most that late, in seconds.
LAGS = {"0.05": 0.9, "0.1": 0.9, "0.25": 1, "+Inf": 1}


@pytest.fixture(scope="module")
def rules(installed: Path) -> Rules:
    """The groups of the PrometheusRule."""
    path = installed / "deploy/components/prometheus-rule/prometheusrule.yaml"
    spec: Rules = yaml.safe_load(path.read_text())["spec"]
    return spec


def all_rules(rules: Rules) -> list[dict[str, Any]]:
    return [rule for group in rules["groups"] for rule in group["rules"]]


def named(name: str, namespace: str = "production", **labels: str) -> str:
    """A series of the service in a namespace."""
    pairs = {"job": JOB, "namespace": namespace, **labels}
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in pairs.items() if value) + "}"


def count(status: int, namespace: str = "production", route: str = "/orders", scheme: str = "http") -> str:
    """The number of requests of one route and status."""
    labels = {"http_route": route, "http_response_status_code": str(status), "url_scheme": scheme}
    return named("http_server_request_duration_seconds_count", namespace, **labels)


def requests(values: str, status: int = 200, *, fast: str | None = None, **labels: str) -> Series:
    """The series of requests. `fast` are those within a second, by default all."""
    counted = count(status, **labels)
    bucket = counted.replace("_count{", "_bucket{").replace("}", ',le="{}"}}')
    buckets = {"0.5": fast or values, "1.0": fast or values, "2.5": values, "+Inf": values}
    return {counted: values} | {bucket.replace("{}", le).replace("}}", "}"): counts for le, counts in buckets.items()}


def task_failures(task: str) -> str:
    return named("background_tasks_failed_total", task=task)


def periodic(task: str) -> tuple[str, str]:
    """The failures of a periodic task, and the time of its last success on another instance."""
    success = named("periodic_task_last_success_timestamp_seconds", instance="b", task=task)
    return named("periodic_task_failures_total", instance="a", task=task), success


def autoscaler(condition: str, status: str) -> str:
    """The metric of kube-state-metrics, whose job is another one."""
    labels = {"horizontalpodautoscaler": JOB, "condition": condition, "status": status}
    return named("kube_horizontalpodautoscaler_status_condition", **labels).replace(
        f'"{JOB}"', '"kube-state-metrics"', 1
    )


def counter(per_minute: float) -> str:
    return f"0+{per_minute}x{12 * HOURS}"


def healthy(namespace: str = "production") -> Series:
    """The service with two instances, much traffic, and no failure."""
    return {
        named("up", namespace, instance="a"): UP,
        named("up", namespace, instance="b"): UP,
        named("service_ready", namespace, instance="a"): UP,
        named("service_ready", namespace, instance="b"): UP,
        **requests(counter(STEADY), namespace=namespace),
        **requests(counter(FEW), namespace=namespace, route="/healthz"),
        **requests(counter(FEW), 503, namespace=namespace, route="/readyz"),
    }


def quiet(namespace: str = "production") -> Series:
    """The service without any traffic but probes and scrapes."""
    series = healthy(namespace)
    return {name: values for name, values in series.items() if '"/orders"' not in name}


class Promtool:
    """Evaluates rules on series, one sample a minute, and says which alerts fire."""

    def __init__(self, rules: Rules, folder: Path) -> None:
        needs("promtool")
        self.rules = rules
        self._folder = folder

    def expect(self, series: Series, fired: Mapping[int, Iterable[str]], only: str = ".+") -> None:
        """Exactly these alerts fire at these minutes, in the namespace production; of those whose name matches."""
        query = f'group by (alertname, namespace) (ALERTS{{alertstate="firing",alertname=~"{only}"}})'
        tests = [
            {"expr": query, "eval_time": f"{minute}m", "exp_samples": [sample(alert) for alert in alerts]}
            for minute, alerts in fired.items()
        ]
        self.test(series, promql_expr_test=tests)

    def test(self, series: Series, **tests: list[dict[str, Any]]) -> None:
        """Run a test of promtool's format."""
        (self._folder / "rules.yaml").write_text(yaml.safe_dump(self.rules))
        inputs = [{"series": name, "values": values} for name, values in series.items()]
        document = {"rule_files": ["rules.yaml"], "tests": [{"interval": "1m", "input_series": inputs, **tests}]}
        (self._folder / "tests.yaml").write_text(yaml.safe_dump(document))
        # It takes a quarter less CPU time if it collects garbage seldom.
        tested = run("promtool", "test", "rules", "tests.yaml", cwd=self._folder, GOGC="800")
        assert tested.returncode == 0, tested.stdout

    def rule(self, name: str) -> dict[str, Any]:
        """The recording rule or the alert of this name."""
        return next(rule for rule in all_rules(self.rules) if name in (rule.get("record"), rule.get("alert")))

    def fires(self, name: str, series: Series, minute: int, **labels: str) -> None:
        """This alert fires with these labels, those of its rule, and its texts."""
        rule = self.rule(name)
        labels = {"job": JOB, "namespace": "production", **rule["labels"], **labels}
        texts = {
            key: re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)
            for key, text in rule["annotations"].items()
        }
        alert = {"exp_labels": {key: value for key, value in labels.items() if value}, "exp_annotations": texts}
        self.test(series, alert_rule_test=[{"eval_time": f"{minute}m", "alertname": name, "exp_alerts": [alert]}])


def sample(alert: str) -> dict[str, Any]:
    """The sample that promtool expects of an alert."""
    return {"labels": f'{{alertname="{alert}",namespace="production"}}', "value": 1}


@pytest.fixture
def promtool(rules: Rules, tmp_path: Path) -> Promtool:
    return Promtool(deepcopy(rules), tmp_path)


def test_promtool_accepts_the_rules(rules: Rules, tmp_path: Path) -> None:
    needs("promtool")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    checked = run("promtool", "check", "rules", "rules.yaml", cwd=tmp_path)

    assert checked.returncode == 0, checked.stdout
    assert f"SUCCESS: {len(all_rules(rules))} rules found" in checked.stdout


def test_rules_use_metrics_that_the_service_has(rules: Rules, start: Start, installed: Path) -> None:
    service = start(installed).ready()
    service.http.get("/orders")
    metrics = service.admin.get("/metrics").text
    recorded = {rule["record"] for rule in all_rules(rules) if "record" in rule}
    used = {name for rule in all_rules(rules) for name in re.findall(r"([a-z][\w:]+)\{", rule["expr"])} - recorded
    used -= {"up", "kube_horizontalpodautoscaler_status_condition"}  # of Prometheus and of kube-state-metrics
    metrics += client_metrics()

    assert len(used) >= 10
    assert {name for name in used if f"# TYPE {re.sub('_(bucket|count)$', '', name)} " not in metrics} == set()


def test_threshold_of_latency_is_a_bucket_of_the_service(rules: Rules, service: Service) -> None:
    service.http.get("/orders")
    slow = next(rule["expr"] for rule in all_rules(rules) if rule.get("record", "").endswith("slow_requests:rate5m"))
    metrics = service.admin.get("/metrics").text
    buckets = set(re.findall(r'^http_server_request_duration_seconds_bucket\{.*le="([^"]+)"', metrics, re.MULTILINE))

    assert [le for le in buckets if re.fullmatch(re.findall('le=~"(.*?)"', slow)[0], le)] == ["1.0"]


def test_nothing_fires_for_a_healthy_service(promtool: Promtool) -> None:
    promtool.expect({**healthy(), **healthy("staging")}, {minute: [] for minute in (0, 1, 6, 30, 60, 400)})


def test_nothing_fires_for_a_service_without_traffic(promtool: Promtool) -> None:
    promtool.expect(quiet(), {minute: [] for minute in (1, 6, 60, 400)})


def test_much_traffic_of_staging_does_not_hide_failures_of_production(promtool: Promtool) -> None:
    busy = requests(counter(100 * STEADY), namespace="staging")

    promtool.expect({**healthy(), **healthy("staging"), **busy, **requests(counter(20), 500)}, {65: BURNING})


@pytest.mark.parametrize("value", ["0", "_"], ids=["pods that cannot be scraped", "no pods"])
def test_instances_of_staging_do_not_hide_that_production_has_none(promtool: Promtool, value: str) -> None:
    ups = {named("up", instance=name): f"1x30 {value}x60" for name in "ab"}

    fired = {30: [], 45: ["ServiceUnreachable"], 90: ["ServiceUnreachable"]}
    promtool.expect({**healthy(), **healthy("staging"), **ups}, fired)


def test_service_that_prometheus_never_found_is_unreachable(promtool: Promtool) -> None:
    promtool.fires("ServiceUnreachable", {'up{job="another"}': "1x10"}, 6, namespace="")


def test_one_instance_of_two_that_is_down_or_not_ready_fires_nothing(promtool: Promtool) -> None:
    series = {**healthy(), named("up", instance="a"): "0x60", named("service_ready", instance="b"): "0x60"}

    promtool.expect(series, {60: []})


def test_pods_that_all_are_unready_fire_although_they_are_scraped(promtool: Promtool) -> None:
    unready = {named("service_ready", instance=name): "1x10 0x50" for name in "ab"}

    promtool.expect({**healthy(), **healthy("staging"), **unready}, {10: [], 20: ["ServiceNotReady"]})


@pytest.mark.parametrize("every", [1, 4, 20], ids="a request in {} minutes".format)
def test_service_that_always_fails_fires_however_few_requests_it_gets(promtool: Promtool, every: int) -> None:
    failed = [minute // every for minute in range(2 * HOURS)]
    values = " ".join(str(number or "_") for number in failed)  # the first failure makes the series

    promtool.expect({**quiet(), **requests(values, 500)}, {101: BURNING})


def test_single_failure_in_a_quiet_night_fires_nothing(promtool: Promtool) -> None:
    series = {**quiet(), **requests("0x30 1x200", 500)}

    promtool.expect(series, {minute: [] for minute in (30, 31, 33, 36, 60, 120)})


@pytest.mark.parametrize("gap", [3, 30, 150], ids="{} minutes".format)
def test_nothing_fires_after_a_gap_of_prometheus(promtool: Promtool, gap: int) -> None:
    """For these minutes nothing is known. Requests failed meanwhile, and tasks had failed before."""
    began = 61 + gap
    series = {name: f"1x60 _x{gap} 1x60" for name, values in healthy().items() if values.startswith("1")}
    for name, rate in {**requests("200"), **requests("20", route="/healthz")}.items():
        series[name] = f"0+{rate}x60 _x{gap} {int(rate) * began}+{rate}x60"
    series |= requests(f"0x60 _x{gap} {gap}x60", 500)
    series |= dict.fromkeys((task_failures("mail"), periodic("mail")[0]), f"3x60 _x{gap} 3x60")

    promtool.expect(series, {began + minute: [] for minute in (0, 1, 2, 5, 6, 10, 16, 30, 50)})


@pytest.mark.parametrize("objective", ["0.5", "0.9", "0.9999", "1"])
def test_outage_fires_for_every_objective(promtool: Promtool, objective: str) -> None:
    promtool.rule("job:http_server_availability:objective")["expr"] = f"vector({objective})"

    promtool.expect({**quiet(), **requests(counter(STEADY), 500)}, {30: BURNING})


@pytest.mark.parametrize(("objective", "fired"), [("0.999", True), ("0.99", False)])
def test_objective_decides_which_share_of_failures_fires(promtool: Promtool, objective: str, fired: bool) -> None:
    promtool.rule("job:http_server_availability:objective")["expr"] = f"vector({objective})"

    failures = requests(counter(STEADY * 0.02), 503)
    promtool.expect({**healthy(), **failures}, {65: BURNING if fired else ["ErrorBudgetBurnSlow"]})


def test_short_failure_fires_nothing(promtool: Promtool) -> None:
    failures = requests("0x120 0+6x2 12x400", 500)  # one of a hundred requests, for two minutes

    promtool.expect({**healthy(), **failures}, {minute: [] for minute in (121, 123, 126, 150, 400)})


def test_alert_ends_soon_after_the_failure(promtool: Promtool) -> None:
    failures = requests("0x60 0+120x20 2400x700", 500)

    promtool.expect({**healthy(), **failures}, {75: BURNING, 120: ["ErrorBudgetBurnSlow"]})


def test_few_failures_for_hours_fire_as_a_warning_alone(promtool: Promtool) -> None:
    failures = requests(counter(STEADY * 0.004), 500)

    promtool.expect({**healthy(), **failures}, {7 * HOURS: ["ErrorBudgetBurnSlow"]})


def test_slow_requests_fire_by_their_own_objective(promtool: Promtool) -> None:
    slow = requests(counter(STEADY), fast=counter(STEADY * 0.8))

    promtool.expect({**healthy(), **slow}, {65: ["LatencyBudgetBurnFast", "LatencyBudgetBurnSlow"]})


def test_open_websockets_are_not_slow(promtool: Promtool) -> None:
    sockets = requests(counter(STEADY), 101, fast=counter(0), scheme="ws")

    promtool.expect({**healthy(), **sockets}, {65: []})


def test_threshold_without_a_bucket_makes_all_requests_slow_instead_of_hiding_them(promtool: Promtool) -> None:
    rule = promtool.rule("namespace_job:http_server_slow_requests:rate5m")
    rule["expr"] = rule["expr"].replace('"1|1.0"', '"1.5"')

    promtool.expect(healthy(), {65: ["LatencyBudgetBurnFast", "LatencyBudgetBurnSlow"]})


def test_shed_requests_fire(promtool: Promtool) -> None:
    shed = {
        named("http_server_shed_requests_total", reason=reason): counter(STEADY * 0.02)
        for reason in ("delay", "threads")
    }

    promtool.expect({**healthy(), **shed}, {10: [], 20: ["LoadShed"]})


def test_blocked_event_loop_fires(promtool: Promtool) -> None:
    lags = {named("event_loop_lag_seconds_bucket", le=le): counter(60 * share) for le, share in LAGS.items()}

    promtool.expect({**healthy(), **lags}, {10: [], 20: ["EventLoopBlocked"]})


def test_first_failure_of_a_background_task_fires(promtool: Promtool) -> None:
    promtool.expect({**healthy(), task_failures("mail"): "0x30 1x60"}, {30: [], 32: ["BackgroundTaskFailed"], 60: []})


def test_failure_before_the_first_scrape_of_a_task_fires(promtool: Promtool) -> None:
    """The series of a task begins when the task starts. It begins at 1 if the task fails at once."""
    first = named("background_tasks_failed_total", instance="a", task="mail")
    started = {named("process_start_time_seconds", instance="a"): f"0x{12 * HOURS}"}

    promtool.expect({**healthy(), **started, first: "_x20 1x60"}, {15: [], 25: ["BackgroundTaskFailed"], 60: []})


def test_series_of_tasks_that_are_back_after_a_gap_fire_nothing(promtool: Promtool) -> None:
    failed = named("background_tasks_failed_total", instance="a", task="mail")
    series = {named("up", instance="a"): "1x20 _x30 1x60", named("process_start_time_seconds", instance="a"): "0x120"}

    found = {**series, failed: "5x20 _x30 5x60"}
    promtool.expect(found, {minute: [] for minute in (52, 60, 80)}, only="BackgroundTaskFailed")


def test_periodic_task_fires_if_no_instance_succeeds(promtool: Promtool) -> None:
    failures, success = periodic("report")
    seconds = " ".join(str(60 * min(minute, 60)) for minute in range(3 * HOURS))  # the time of each success

    fired = {60: [], 95: [], 120: ["PeriodicTaskFails"]}
    promtool.expect({**healthy(), failures: "0x60 0+1x100", success: seconds}, fired)


def test_periodic_task_that_never_succeeded_fires(promtool: Promtool) -> None:
    failures, _ = periodic("report")

    promtool.expect({**healthy(), failures: counter(0.1)}, {10: [], 60: ["PeriodicTaskFails"]})


def test_periodic_task_that_another_instance_does_fires_nothing(promtool: Promtool) -> None:
    failures, success = periodic("report")
    seconds = " ".join(str(60 * minute) for minute in range(3 * HOURS))

    promtool.expect({**healthy(), failures: counter(1), success: seconds}, {60: [], 120: []})


def calls(values: str, error_type: str = "", dependency: str = "catalogue", **labels: str) -> Series:
    """The series of calls to another service."""
    labels = {"dependency": dependency, "method": "GET", "error_type": error_type, **labels}
    text = named("dependency_call_duration_seconds_count", **labels)
    return {text if error_type else text.replace("}", ',error_type=""}'): values}


@pytest.mark.parametrize("error", ["503", "429", "401", "chassis.client.errors.DependencyTimeoutError"])
def test_dependency_whose_calls_fail_fires(promtool: Promtool, error: str) -> None:
    series = {**healthy(), **calls(counter(60)), **calls("0x30 0+6x60", error), **calls(counter(60), dependency="b")}

    promtool.expect(series, {30: [], 55: ["DependencyFails"]})
    assert "{{ $labels.dependency }}" in promtool.rule("DependencyFails")["annotations"]["description"]


@pytest.mark.parametrize("error", ["404", "409", "422", "asyncio.exceptions.CancelledError"])
def test_responses_to_what_was_asked_fire_nothing(promtool: Promtool, error: str) -> None:
    promtool.expect({**healthy(), **calls(counter(6)), **calls(counter(60), error)}, {60: []})


def test_few_failures_of_a_dependency_fire_nothing(promtool: Promtool) -> None:
    promtool.expect({**healthy(), **calls(counter(60)), **calls(counter(2), "503")}, {60: []})


def test_single_failure_of_a_dependency_that_is_seldom_called_fires_nothing(promtool: Promtool) -> None:
    promtool.expect({**healthy(), **calls("0x30 1x60", "503")}, {minute: [] for minute in (32, 36, 40, 45)})


def test_dependency_that_always_fails_fires_however_seldom_it_is_called(promtool: Promtool) -> None:
    failed = " ".join(str(minute // 4) for minute in range(HOURS))

    promtool.expect({**healthy(), **calls(failed, "503")}, {40: ["DependencyFails"]})


def test_failures_of_one_namespace_do_not_hide_in_another(promtool: Promtool) -> None:
    staging = calls(counter(6000), namespace="staging")

    promtool.expect({**healthy(), **staging, **calls(counter(6), "503")}, {40: ["DependencyFails"]})


def breaker(instance: str = "a", dependency: str = "catalogue") -> str:
    return named("dependency_breaker_state", instance=instance, dependency=dependency)


def test_circuit_breaker_that_keeps_opening_fires(promtool: Promtool) -> None:
    """Between two openings it is half-open. The other instance reaches the dependency."""
    states = {breaker(): "0x20 2 2 1 2 2 2 1 2 2 2 0x30", breaker("b"): "0x60"}

    promtool.expect({**healthy(), **states}, {21: [], 29: ["CircuitBreakerOpen"], 40: []})
    promtool.fires("CircuitBreakerOpen", {**healthy(), **states}, 29, dependency="catalogue")


def test_circuit_breaker_that_opens_once_fires_nothing(promtool: Promtool) -> None:
    promtool.expect({**healthy(), breaker(): "0x20 2 0x40"}, {minute: [] for minute in range(20, 30)})


def test_autoscaler_without_metrics_fires(promtool: Promtool) -> None:
    inactive = {autoscaler("ScalingActive", "false"): "0x10 1x50", autoscaler("AbleToScale", "false"): "1x60"}

    promtool.expect({**healthy(), **inactive}, {10: [], 20: [], 30: ["AutoscalerInactive"]})


@pytest.fixture(scope="module")
def with_servers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with a database, events and tokens."""
    return render(tmp_path_factory.mktemp("servers"), {"database": "postgres", "events": "nats", "auth": "jwt"})


@pytest.fixture
def servers(with_servers: Path, tmp_path: Path) -> Promtool:
    """Evaluates the rules of that service."""
    path = with_servers / "deploy/components/prometheus-rule/prometheusrule.yaml"
    return Promtool(yaml.safe_load(path.read_text())["spec"], tmp_path)


OF_SERVERS = "Database.*|Outbox.*|Events.*|DeadLetters|Issuer.*"


def pool(name: str, instance: str = "a") -> str:
    return named(f"db_client_connection_{name}", instance=instance, db_client_connection_pool_name="database")


@pytest.mark.parametrize(("check", "alert"), [("database", "DatabaseUnavailable"), ("events", "EventsUnavailable")])
def test_outage_of_a_server_fires_if_no_instance_reaches_it(servers: Promtool, check: str, alert: str) -> None:
    series = {
        named("readiness_check_passed", instance="a", check=check): "1x10 0x50",
        named("readiness_check_passed", instance="b", check=check): "1x20 0x40",
    }

    servers.expect({**healthy(), **series}, {19: [], 25: [alert]}, only=OF_SERVERS)
    servers.fires(alert, series, 25)


@pytest.mark.parametrize(
    ("series", "fired"),
    [
        ({pool("timeouts_total"): "0x10 0+1x50"}, ["DatabasePoolExhausted"]),
        ({pool("pending_requests"): "0x10 3x50"}, ["DatabasePoolExhausted"]),
        ({pool("pending_requests"): "0x10 3x3 0x3 3x3 0x40"}, []),
        ({pool("timeouts_total"): "0x60", pool("pending_requests"): "0x60"}, []),
    ],
    ids=["timeouts", "waiting all the time", "waiting for a moment", "idle"],
)
def test_pool_without_free_connections_fires(servers: Promtool, series: Series, fired: list[str]) -> None:
    servers.expect({**healthy(), **series}, {10: [], 22: fired}, only=OF_SERVERS)


def test_outbox_whose_messages_wait_fires(servers: Promtool) -> None:
    """The state of the table is the same on all instances."""
    ages = " ".join(str(60 * minute) for minute in range(60))
    series = {named("outbox_oldest_message_age_seconds", instance=one): ages for one in "ab"}

    servers.expect({**healthy(), **series}, {8: [], 15: ["OutboxDelayed"]}, only=OF_SERVERS)


def test_messages_that_were_set_aside_fire_until_somebody_acts(servers: Promtool) -> None:
    series = {named("outbox_messages", state="rejected"): "0x10 2x30 0x30"}

    servers.expect({**healthy(), **series}, {10: [], 20: ["OutboxRejected"], 60: []}, only=OF_SERVERS)


def test_dead_letter_fires_for_its_consumer(servers: Promtool) -> None:
    dead = named("messaging_dead_letters_total", messaging_consumer_group_name="billing")

    servers.expect({**healthy(), dead: "0x10 1x50"}, {10: [], 15: ["DeadLetters"], 40: []}, only=OF_SERVERS)


def test_old_keys_of_the_issuer_fire_although_another_instance_has_new_ones(servers: Promtool) -> None:
    """Keys are fetched every five minutes, from the second hour on by one instance alone."""
    fresh = [60 * (minute % 5) for minute in range(3 * HOURS)]
    old = [*fresh[:HOURS], *(60 * minute for minute in range(2 * HOURS))]
    ages = {"a": old, "b": fresh}
    series = {
        named("auth_keys_age_seconds", instance=name): " ".join(map(str, values)) for name, values in ages.items()
    }

    servers.expect({**healthy(), **series}, {60: [], 120: [], 130: ["IssuerKeysOld"]}, only=OF_SERVERS)


def test_alerts_on_servers_use_metrics_and_log_lines_of_the_core(
    rules: Rules, servers: Promtool, with_servers: Path
) -> None:
    """Without the servers: by the texts in its source."""
    source = "".join(path.read_text() for path in (TEMPLATE / "chassis/src").rglob("*.py"))
    others = str(rules)
    metrics = {name for name in re.findall(r"(\w+)\{", str(servers.rules)) if name not in others}
    section = (with_servers / "docs/runbook.md").read_text().partition("## DatabaseUnavailable")[2]
    events = set(re.findall(r"`([a-z]+(?:;? [a-zA-Z]+)+)`", section.partition("## AutoscalerInactive")[0]))

    assert len(metrics) == 7
    assert [name for name in metrics if f'"{name.removesuffix("_total")}"' not in source] == []
    assert len(events) == 10
    assert [event for event in events if f'"{event}"' not in source] == []


def test_alerts_on_servers_have_sections_in_the_runbook(servers: Promtool, with_servers: Path) -> None:
    expect_sections(all_rules(servers.rules), with_servers)


def test_alerts_have_labels_to_route_by(promtool: Promtool) -> None:
    """With the values that the texts are filled with."""
    series = {**healthy(), task_failures("mail"): "0x30 1x60", named("service_ready", instance="b"): "0x60"}
    series[named("service_ready", instance="a")] = "0x60"

    promtool.fires("ServiceNotReady", series, 40)
    promtool.fires("BackgroundTaskFailed", series, 40, task="mail")


def test_each_alert_has_a_severity_a_service_and_its_section_in_the_runbook(rules: Rules, installed: Path) -> None:
    expect_sections(all_rules(rules), installed)


def expect_sections(rules: list[dict[str, Any]], project: Path) -> None:
    """Each alert has its labels, and a section in the runbook, in the same order."""
    alerts = [rule for rule in rules if "alert" in rule]
    sections = re.findall("^## (.*)$", (project / "docs/runbook.md").read_text(), re.MULTILINE)

    assert {rule["labels"]["severity"] for rule in alerts} == {"critical", "warning"}
    assert {rule["labels"]["service"] for rule in alerts} == {JOB}
    assert [rule["alert"] for rule in alerts] == [
        section for section in sections if re.fullmatch("[A-Z][a-z]+([A-Z][a-z]+)+", section)
    ]
    page = "https://github.com/acme/order-service/blob/main/docs/runbook.md"
    assert [rule["annotations"]["runbook_url"] for rule in alerts] == [
        f"{page}#{rule['alert'].lower()}" for rule in alerts
    ]


def test_rules_without_kubernetes_are_a_file_for_prometheus(bake: Bake, promtool: Promtool) -> None:
    project = bake(deploy="none", ci="gitlab")
    promtool.rules = yaml.safe_load((project / "monitoring/rules.yaml").read_text())
    series = {name.replace('namespace="production",', ""): values for name, values in healthy().items()}
    unready = {name: "0x60" for name in series if name.startswith("service_ready")}

    assert not (project / "deploy").exists()
    promtool.fires("ServiceNotReady", {**series, **unready}, 20, namespace="")
    assert {rule["alert"] for rule in all_rules(promtool.rules) if "alert" in rule} >= {"ServiceNotReady", "LoadShed"}
    assert "horizontalpodautoscaler" not in str(promtool.rules)
    (link,) = {
        rule["annotations"]["runbook_url"].partition("#")[0] for rule in all_rules(promtool.rules) if "alert" in rule
    }
    assert link == "https://gitlab.com/acme/order-service/-/blob/main/docs/runbook.md"
