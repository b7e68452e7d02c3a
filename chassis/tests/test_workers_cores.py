"""`APP_WORKERS=auto`: the CPU limit of the container, in whole cores."""

from pathlib import Path

import pytest

from chassis.workers.cores import processors, worker_count

ROOT_V2 = "0::/\n"
V1 = "11:memory:/kubepods/pod1/c1\n4:cpu,cpuacct:/kubepods/pod1/c1\n"


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def count(tmp_path: Path, own: str) -> int:
    file = tmp_path / "own"
    file.write_text(own)
    return worker_count("auto", own=file, cgroups=tmp_path / "cgroup")


def at_most(number: int) -> int:
    """No more than the processors of the machine that runs the tests."""
    return min(number, processors())


def test_number_is_taken_as_it_is() -> None:
    assert worker_count(64) == 64


@pytest.mark.parametrize(
    ("limit", "cores"), [("200000 100000\n", 2), ("150000 100000\n", 1), ("50000 100000\n", 1), ("100000 50000\n", 2)]
)
def test_quota_of_the_own_group(tmp_path: Path, limit: str, cores: int) -> None:
    write(tmp_path / "cgroup", cpu__max=limit)
    assert count(tmp_path, ROOT_V2) == at_most(cores)


def test_smallest_quota_of_all_groups_above_counts(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/kubepods/pod1/c1", cpu__max="max 100000\n")
    write(tmp_path / "cgroup/kubepods/pod1", cpu__max="100000 100000\n")
    write(tmp_path / "cgroup/kubepods", cpu__max="6400000 100000\n")
    assert count(tmp_path, "0::/kubepods/pod1/c1\n") == 1


def test_path_of_the_host_is_not_seen_in_the_container(tmp_path: Path) -> None:
    write(tmp_path / "cgroup", cpu__max="100000 100000\n")
    assert count(tmp_path, "0::/kubepods/pod1/c1\n") == 1


def test_quota_of_version_1(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu,cpuacct/kubepods/pod1/c1", cpu__cfs_quota_us="100000\n", cpu__cfs_period_us="100000\n")
    assert count(tmp_path, V1) == 1


@pytest.mark.parametrize("quota", ["-1\n", ""])
def test_without_a_quota_it_is_the_processors(tmp_path: Path, quota: str) -> None:
    write(tmp_path / "cgroup/cpu/kubepods/pod1/c1", cpu__cfs_quota_us=quota, cpu__cfs_period_us="100000\n")
    assert count(tmp_path, V1) == processors()


@pytest.mark.parametrize("limit", ["max 100000\n", "", "nonsense\n", "100000\n", "1 0\n"])
def test_limit_that_is_none_or_unknown_is_the_processors(tmp_path: Path, limit: str) -> None:
    write(tmp_path / "cgroup", cpu__max=limit)
    assert count(tmp_path, ROOT_V2) == processors()


def test_system_without_control_groups_has_its_processors(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert worker_count("auto", own=missing, cgroups=missing) == processors()
