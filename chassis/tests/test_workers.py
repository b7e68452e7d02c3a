"""`APP_WORKERS`: several worker processes, as processes with clients, signals and crashes."""

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from .support.secret_volume import SecretVolume
from .support.service import SAMPLED, connect, until
from .support.workers import Load, Pod, Scraper, is_alive, parent_of, run_pod

FAULT = {"path_prefix": "/none", "status": 503}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="services with several workers run on Linux")


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Pod]:
    """A pod for tests after which it works on."""
    # Without an exporter, no request is recorded, and there are no exemplars. This one drops the spans.
    async with run_pod(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as pod:
        await pod.ready()
        yield pod


@pytest.fixture
async def pod(running: Pod) -> Pod:
    """The pod, with two ready workers."""
    await running.worker(0)
    await running.worker(1)
    return running


async def test_connections_are_distributed_among_all_workers(pod: Pod) -> None:
    async with Load(pod.port, clients=32) as load:
        await until(lambda: set(load.served) == {0, 1}, 10)
    assert load.lost == []


async def test_access_lines_say_which_worker_has_served(pod: Pod) -> None:
    async with connect(pod.port) as client:
        response = await client.get("/orders", headers={"x-request-id": "mine"})
    line = await pod.line("request", request_id="mine")
    assert line["worker"] == response.json()["worker"]


async def test_readiness_has_the_checks_and_all_workers(pod: Pod) -> None:
    response = await pod.admin.get("/readyz")
    document = response.json()
    assert (response.status_code, document["status"]) == (200, "ready")
    assert document["checks"]["database"]["status"] == "pass"
    assert [(one["worker"], one["status"]) for one in document["workers"]] == [(0, "ready"), (1, "ready")]


async def test_info_has_the_processes_of_all_workers(pod: Pod) -> None:
    info = (await pod.admin.get("/info")).json()
    assert info["name"] == "test-service"
    assert {one["worker"] for one in info["workers"]} == {0, 1}
    assert all(is_alive(one["pid"]) for one in info["workers"])


async def test_other_paths_of_the_admin_port_are_those_of_the_workers(pod: Pod) -> None:
    response = await pod.admin.get("/nothing")
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"x-forwarded-for": "127.0.0.1"}])
async def test_access_rule_sees_the_connection_to_the_admin_port(pod: Pod, headers: dict[str, str]) -> None:
    assert (await pod.admin.get("/faults")).status_code == 200
    assert (await pod.admin.get("/faults", headers=headers)).status_code == 403


async def test_peer_cannot_be_forged(pod: Pod) -> None:
    headers = {"host": "evil.example", "chassis-peer": "127.0.0.1 1 127.0.0.1 2"}
    assert (await pod.admin.get("/faults", headers=headers)).status_code == 403
    assert (await pod.admin.get("/chassis/snapshot")).status_code == 404


async def test_each_worker_reads_settings_that_change(tmp_path: Path) -> None:
    volume = SecretVolume(tmp_path / "secrets", app_max_target_bytes="8192")
    async with run_pod(APP_SECRETS_DIR=str(volume.directory)) as pod:
        await pod.ready()
        volume.write(app_max_target_bytes="50")
        await pod.line("settings changed", count=3)  # of the supervisor as well
        process = await pod.worker(1)
        os.kill(process, signal.SIGKILL)
        await pod.another_worker(1, process)
        for _ in range(8):  # each on a connection of its own
            async with connect(pod.port) as client:
                assert (await client.get("/" + "x" * 100)).status_code == 414


async def test_change_is_made_in_all_workers_and_in_those_that_start_later(pod: Pod) -> None:
    response = await pod.admin.put("/faults", json=[FAULT])
    assert [(one["worker"], one["rule"]["path_prefix"]) for one in response.json()] == [(0, "/none"), (1, "/none")]
    assert (await pod.line("faults changed", count=2))["by"] == "127.0.0.1"
    process = await pod.worker(1)
    os.kill(process, signal.SIGKILL)
    await pod.another_worker(1, process)
    await pod.line("faults changed", count=3)
    assert len((await pod.admin.get("/faults")).json()) == 2
    await pod.admin.delete("/faults")
    assert (await pod.admin.get("/faults")).json() == []


async def test_supervisor_reads_settings_that_change(tmp_path: Path) -> None:
    volume = SecretVolume(tmp_path / "secrets", app_log_level="INFO", app_shutdown_seconds="21")
    async with run_pod(APP_SECRETS_DIR=str(volume.directory)) as pod:
        await pod.ready()
        processes = [await pod.worker(number) for number in (0, 1)]
        volume.write(app_log_level="WARNING", app_shutdown_seconds="22")
        await pod.line("settings changed", count=3)
        needs_restart = await pod.line("setting changed; restart the service to apply it", count=3)
        assert needs_restart["variable"] == "APP_SHUTDOWN_SECONDS"
        pod.send(signal.SIGHUP)
        for number, process in enumerate(processes):
            await pod.another_worker(number, process)
        assert pod.found("replacing worker") == []
        volume.write(app_log_level="INFO", app_shutdown_seconds="22")
        pod.send(signal.SIGHUP)
        await pod.line("replacing worker")
        pod.send(signal.SIGTERM)
        assert (await pod.line("draining"))["shutdown_seconds"] == 22


async def test_change_is_repeated_after_the_token_of_its_operator_has_changed(tmp_path: Path) -> None:
    old, new = "first-token-of-operators", "second-token-of-operators"
    volume = SecretVolume(tmp_path / "secrets", app_admin_token=old)
    async with run_pod(APP_SECRETS_DIR=str(volume.directory)) as pod:
        await pod.ready()
        changed = await pod.admin.put("/faults", json=[FAULT], headers={"authorization": f"Bearer {old}"})
        assert changed.status_code == 200
        volume.write(app_admin_token=new)
        await pod.line("settings changed", count=3)
        process = await pod.worker(1)
        os.kill(process, signal.SIGKILL)
        await pod.another_worker(1, process)
        await pod.line("faults changed", count=3)
        faults = await pod.admin.get("/faults", headers={"authorization": f"Bearer {new}"})
        assert [one["worker"] for one in faults.json()] == [0, 1]


async def test_token_changes_at_the_same_moment_for_all_workers(tmp_path: Path) -> None:
    tokens = "first-token-of-operators", "second-token-of-operators"
    old, new = ({"authorization": f"Bearer {token}"} for token in tokens)
    volume = SecretVolume(tmp_path / "secrets", app_admin_token=tokens[0])
    async with run_pod(APP_SECRETS_DIR=str(volume.directory)) as pod:
        await pod.ready()
        volume.write(app_admin_token=tokens[1])
        while (response := await pod.admin.get("/gc", headers=old)).status_code == 200:
            assert {item["worker"] for item in response.json()} == {0, 1}
            await asyncio.sleep(0.01)
        response = await pod.admin.get("/gc", headers=new)
        assert {item["worker"] for item in response.json()} == {0, 1}


async def test_change_can_be_made_in_one_worker(pod: Pod) -> None:
    await pod.admin.put("/faults", params={"worker": 1}, json=[FAULT])
    assert [one["worker"] for one in (await pod.admin.get("/faults")).json()] == [1]
    await pod.admin.delete("/faults", params={"worker": 1})
    assert (await pod.admin.get("/faults", params={"worker": 1})).json() == []


async def test_log_lines_of_the_supervisor_are_beside_those_of_the_workers(pod: Pod) -> None:
    lines = (await pod.admin.get("/logs")).json()
    assert {item["worker"] for item in lines} == {0, 1, "supervisor"}
    own = (await pod.admin.get("/logs", params={"worker": "supervisor"})).json()
    assert {item["worker"] for item in own} == {"supervisor"}
    assert "listening" in [item["line"]["event"] for item in own]
    newer = await pod.admin.get("/logs", params={"worker": "supervisor", "after": own[0]["number"], "limit": 1})
    assert newer.json() == own[1:2]


@pytest.mark.parametrize("path", ["/gc", "/logs?limit=0"])
async def test_supervisor_has_only_its_log_lines(pod: Pod, path: str) -> None:
    response = await pod.admin.get(path, params={"worker": "supervisor", **httpx.URL(path).params})
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")


async def test_worker_that_is_not_there_cannot_be_asked(pod: Pod) -> None:
    assert (await pod.admin.get("/faults", params={"worker": "x"})).status_code == 422
    assert (await pod.admin.get("/faults", params={"worker": 7})).status_code == 503


async def test_counters_and_histograms_are_sums(pod: Pod) -> None:
    before = await pod.sample("orders_total")
    async with Load(pod.port, clients=16) as load:
        await until(lambda: set(load.served) == {0, 1}, 10)
    assert await pod.sample("orders_total") == before + load.count
    requests = await pod.sample("http_server_request_duration_seconds_count", http_route="/orders")
    assert requests >= before + load.count


async def test_metrics_of_processes_and_gauges_of_the_owner_have_a_label(pod: Pod) -> None:
    families = await pod.families()
    memory = {sample.labels["worker"]: sample.value for sample in families["process_resident_memory_bytes"].samples}
    assert set(memory) == {"0", "1", "supervisor"}
    assert {sample.labels["worker"]: sample.value for sample in families["mine"].samples} == {"0": 1, "1": 2}
    assert [(sample.labels, sample.value) for sample in families["largest"].samples] == [({}, 2)]
    assert [(sample.labels, sample.value) for sample in families["service_ready"].samples] == [({}, 1)]
    assert (await pod.sample("workers"), await pod.sample("workers_ready")) == (2, 2)


async def test_exemplars_of_sampled_requests_are_kept(pod: Pod) -> None:
    async with connect(pod.port) as client:
        await client.get("/orders", headers=SAMPLED)
    buckets = (await pod.families())["http_server_request_duration_seconds"].samples
    exemplars = [bucket.exemplar.labels["trace_id"] for bucket in buckets if bucket.exemplar]
    assert SAMPLED["traceparent"].split("-")[1] in exemplars


async def test_work_of_the_pod_is_done_in_one_worker_only(pod: Pod) -> None:
    await pod.line("periodic task done", count=2, task="in each worker")
    await pod.line("periodic task done", task="in the pod")
    assert {line["worker"] for line in pod.found("periodic task done", task="in the pod")} == {0}
    assert {line["worker"] for line in pod.found("periodic task done", task="in each worker")} == {0, 1}


@pytest.mark.parametrize("number", [0, 1])
async def test_worker_that_gets_sigterm_loses_no_request_and_is_replaced(pod: Pod, number: int) -> None:
    process = await pod.worker(number)
    before = await pod.sample("orders_total")
    async with Scraper(pod) as scraper, Load(pod.port) as load:
        os.kill(process, signal.SIGTERM)
        await pod.another_worker(number, process)
        await until(lambda: not is_alive(process), 10)
        await load.goes_on()
    assert load.lost == []
    assert scraper.backwards == []
    assert await pod.sample("orders_total") == before + load.count


async def test_sighup_replaces_all_workers_and_loses_no_request(pod: Pod) -> None:
    processes = [await pod.worker(0), await pod.worker(1)]
    before = await pod.sample("orders_total")
    async with Scraper(pod) as scraper, Load(pod.port) as load:
        pod.send(signal.SIGHUP)
        for number, process in enumerate(processes):
            await pod.another_worker(number, process)
        await until(lambda: not any(map(is_alive, processes)), 10)
        await load.goes_on()
    assert load.lost == []
    assert scraper.backwards == []
    assert await pod.sample("orders_total") == before + load.count


async def test_worker_that_is_killed_loses_no_more_than_what_it_had_in_hand(pod: Pod) -> None:
    process = await pod.worker(1)
    restarts = await pod.sample("worker_restarts_total", reason="died")
    async with Scraper(pod) as scraper, Load(pod.port) as load:
        os.kill(process, signal.SIGKILL)
        await pod.another_worker(1, process)
        await load.goes_on()
    assert len(load.lost) <= 8  # the clients have one request each
    assert scraper.backwards == []
    line = await pod.line("worker ended unexpectedly", pid=process)
    assert (line["worker"], line["status"]) == (1, -signal.SIGKILL)
    assert await pod.sample("worker_restarts_total", reason="died") == restarts + 1


async def test_connections_that_wait_for_a_worker_that_is_killed_are_served(pod: Pod) -> None:
    process = await pod.worker(0)
    os.kill(process, signal.SIGSTOP)
    clients = [await asyncio.open_connection("127.0.0.1", pod.port) for _ in range(24)]
    for _, writer in clients:
        writer.write(b"GET /orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    responses = [asyncio.create_task(reader.read()) for reader, _ in clients]
    done, waiting = await asyncio.wait(responses, timeout=0.5)
    assert done
    assert waiting
    os.kill(process, signal.SIGKILL)
    async with asyncio.timeout(10):
        assert all([(await response).startswith(b"HTTP/1.1 200 ") for response in responses])
    for _, writer in clients:
        writer.close()
    await pod.another_worker(0, process)


async def test_worker_that_hangs_delays_no_report(pod: Pod) -> None:
    process = await pod.worker(0)
    os.kill(process, signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):  # a probe waits no longer
            readiness = await pod.admin.get("/readyz")
            info = (await pod.admin.get("/info")).json()
    finally:
        os.kill(process, signal.SIGCONT)
    assert readiness.status_code == 200
    assert [one["status"] for one in readiness.json()["workers"]] == ["unknown", "ready"]
    assert info["name"] == "test-service"


async def test_worker_with_too_many_open_files_responds_when_it_has_fewer(pod: Pod) -> None:
    process = await pod.worker(0)
    limits = resource.prlimit(process, resource.RLIMIT_NOFILE)
    resource.prlimit(process, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        assert (await pod.admin.get("/faults", params={"worker": 0})).status_code == 502
    finally:
        resource.prlimit(process, resource.RLIMIT_NOFILE, limits)
    assert (await pod.admin.get("/faults", params={"worker": 0})).status_code == 200


async def test_end_of_the_zygote_ends_the_service() -> None:
    async with run_pod(APP_SHUTDOWN_SECONDS="3600") as pod:
        await pod.ready()
        processes = [line["pid"] for line in pod.found("worker ready")]
        os.kill(parent_of(processes[0]), signal.SIGKILL)
        assert await pod.end() == (1, "")
        assert not any(map(is_alive, processes))
        assert len(pod.found("left")) == 2


async def test_sigterm_ends_all_processes_in_one_budget() -> None:
    async with run_pod() as pod:
        await pod.ready()
        processes = [line["pid"] for line in pod.found("worker ready")]
        async with connect(pod.port) as client:
            waiting = asyncio.create_task(client.post("/orders"))
            await pod.line("begun")
            pod.send(signal.SIGTERM)
            await pod.line("draining", worker=None)
            assert (await pod.admin.get("/readyz")).json()["status"] == "draining"
            response = await waiting
        assert (response.status_code, response.headers["connection"]) == (200, "close")
        assert await pod.end() == (0, "")
        assert not any(map(is_alive, processes))
        assert {line["worker"] for line in pod.found("left")} == {0, 1}
        assert pod.lines[-1]["event"] == "stopped"
        assert pod.lines[-1].get("worker") is None


async def test_sigint_of_a_terminal_ends_cleanly_without_a_drain() -> None:
    async with run_pod(APP_DRAIN_SECONDS="3600") as pod:
        await pod.ready()
        os.killpg(pod.process.pid, signal.SIGINT)  # all processes of a terminal's foreground job get it
        assert await pod.end() == (0, "")
        assert len(pod.found("left")) == 2


async def test_second_signal_ends_all_processes_at_once() -> None:
    async with run_pod(APP_DRAIN_SECONDS="3600") as pod:
        await pod.ready()
        processes = [line["pid"] for line in pod.found("worker ready")]
        pod.send(signal.SIGTERM)
        await pod.line("draining", worker=None)
        pod.send(signal.SIGTERM)
        assert await pod.end() == (128 + signal.SIGTERM, "")
        await until(lambda: not any(map(is_alive, processes)), 10)


async def test_no_worker_stays_when_the_supervisor_is_killed() -> None:
    async with run_pod(APP_DRAIN_SECONDS="3600") as pod:
        await pod.ready()
        processes = [line["pid"] for line in pod.found("worker ready")]
        pod.send(signal.SIGKILL)
        await until(lambda: not any(map(is_alive, processes)), 10)
        await pod.end()
        assert len(pod.found("left")) == 2  # they have shut down in order


async def test_service_that_cannot_start_ends_with_status_1_and_one_error() -> None:
    async with run_pod(PROGRAM_START="fails") as pod:
        assert await pod.end() == (1, "")
    assert len(pod.found("service failed to start or stop")) == 1


async def test_service_that_hangs_in_its_start_ends_at_sigterm() -> None:
    async with run_pod(PROGRAM_START="hangs", APP_SHUTDOWN_SECONDS="3600") as pod:
        await pod.listening()
        pod.send(signal.SIGTERM)
        assert await pod.end() == (0, "")


async def test_workers_that_hang_in_their_start_end_with_the_supervisor() -> None:
    async with run_pod(PROGRAM_START="hangs", APP_SHUTDOWN_SECONDS="3600") as pod:
        await pod.listening()
        await pod.line("hanging")
        pod.process.kill()
        assert await pod.end() == (-signal.SIGKILL, "")


async def test_log_lines_of_the_supervisor_are_there_without_a_worker() -> None:
    async with run_pod(PROGRAM_START="hangs") as pod:
        await pod.listening()
        lines = await pod.admin.get("/logs")
        assert [(item["worker"], item["line"]["event"]) for item in lines.json()] == [("supervisor", "listening")]
        assert (await pod.admin.get("/gc")).status_code == 503


async def test_sighup_during_the_start_changes_nothing() -> None:
    async with run_pod(PROGRAM_START="hangup") as pod:
        await pod.ready()


async def test_worker_that_fails_to_start_is_tried_again_while_the_others_serve() -> None:
    async with run_pod(PROGRAM_START="second fails") as pod:
        await pod.listening()
        line = await pod.line("worker ended unexpectedly", count=2, worker=1)
        assert line["restart_in_seconds"] == 1.0
        assert (await pod.admin.get("/readyz")).status_code == 200
        async with Load(pod.port, clients=16) as load:  # also those whose connection is for the other worker
            await load.goes_on()
        assert load.lost == []
        pod.send(signal.SIGTERM)
        assert await pod.end() == (0, "")


async def test_port_that_another_instance_has_is_status_1_and_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        async with run_pod(APP_PORT=str(taken.getsockname()[1])) as pod:
            assert await pod.end() == (1, "")
    (line,) = pod.lines
    assert line["event"] == "cannot listen"


async def test_several_workers_need_an_admin_port() -> None:
    async with run_pod(APP_ADMIN_PORT="") as pod:
        status, errors = await pod.end()
    assert status == 2
    assert "APP_WORKERS='2'" in errors
    assert "set APP_ADMIN_PORT too" in errors


async def test_worker_above_its_memory_is_replaced_and_loses_no_request() -> None:
    async with run_pod(APP_WORKER_MAX_MEMORY_BYTES="180000000", PROGRAM_POLL_SECONDS="0.2") as pod:
        await pod.ready()
        async with Load(pod.port) as load, connect(pod.port) as client:
            process = (await client.post("/memory", params={"size": 180_000_000})).json()["pid"]
            await until(lambda: not is_alive(process), 20)
        assert load.lost == []
        assert await pod.sample("worker_restarts_total", reason="memory") == 1


async def test_worker_that_hangs_is_killed_and_replaced() -> None:
    async with run_pod(PROGRAM_POLL_SECONDS="0.2", PROGRAM_HANG_SECONDS="1") as pod:
        await pod.ready()
        process = await pod.worker(0)
        os.kill(process, signal.SIGSTOP)
        await pod.another_worker(0, process)
        assert not is_alive(process)
        assert pod.found("worker hangs; killing it")
        assert await pod.sample("worker_restarts_total", reason="hung") == 1
        assert await pod.sample("worker_restarts_total", reason="died") == 0


async def test_worker_that_hangs_after_it_was_replaced_is_killed() -> None:
    async with run_pod(APP_SHUTDOWN_SECONDS="0.5", PROGRAM_RETIRED_SECONDS="0.5", PROGRAM_POLL_SECONDS="0.2") as pod:
        await pod.ready()
        first, second = await pod.worker(0), await pod.worker(1)
        clients = [await asyncio.open_connection("127.0.0.1", pod.port) for _ in range(24)]
        pod.send(signal.SIGHUP)
        await pod.line("worker retiring", worker=0)
        os.kill(first, signal.SIGSTOP)
        await pod.another_worker(1, second)  # the next one is replaced afterwards
        assert not is_alive(first)
        for _, writer in clients:
            writer.close()


async def test_limit_that_new_workers_exceed_too_replaces_them_more_and_more_seldom() -> None:
    async with run_pod(APP_WORKER_MAX_MEMORY_BYTES="1000000", PROGRAM_POLL_SECONDS="0.1") as pod:
        await pod.line("replacing worker", count=4, worker=0)
        *_, third, fourth = (
            datetime.fromisoformat(line["timestamp"]) for line in pod.found("replacing worker", worker=0)
        )
        assert (fourth - third).total_seconds() >= 2.0


async def test_unix_socket_is_shared_by_all_workers(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with run_pod(APP_UNIX_SOCKET=str(path)) as pod:
        await pod.ready()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        pod.send(signal.SIGTERM)
        assert await pod.end() == (0, "")
        assert await asyncio.to_thread(path.exists) is False
