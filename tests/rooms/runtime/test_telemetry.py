"""Metrics as Prometheus reads them from a node, and MLflow's system metrics."""

import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from boltzray.runtime import telemetry

WAIT_S = 60.0  # the tests' cluster sends metrics every second


def exported() -> str:
    """Fetch what this cluster's nodes export for Prometheus."""
    import ray

    pages = []
    for node in ray.nodes():
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as page:
            pages.append(page.read().decode())
    return "\n".join(pages)


def totals(page: str) -> dict[str, float]:
    """Sums over all labels of our metrics, by name and first own label."""
    found: dict[str, float] = {}
    for name, labels, value in re.findall(r"^ray_(boltzray_\w+)\{([^}]*)\} (\S+)$", page, re.MULTILINE):
        own = re.search(r"\b(?:stage|engine|kind)=\"([^\"]*)\"", labels)
        key = f"{name} {own[1]}" if own else name
        found[key] = found.get(key, 0.0) + float(value)
    return found


ONE, TWO = "one of this test", "two of this test"  # labels that nothing else counts with
EXPECTED = {
    f"boltzray_particles_total {ONE}": 32.0,
    f"boltzray_particles_total {TWO}": 5.0,
    f"boltzray_energies_total {ONE}": 7.0,
    f"boltzray_failures_total {ONE}": 2.0,
    "boltzray_frames_total": 11.0,
    "boltzray_queue_depth": 3.0,
}


@pytest.mark.usefixtures("ray_cluster")
def test_prometheus_sees_what_actors_and_the_driver_count() -> None:
    import ray

    @ray.remote(num_cpus=0)
    def work() -> None:
        telemetry.count("boltzray_particles", 16, ONE)
        telemetry.count("boltzray_particles", 5, TWO)
        telemetry.count("boltzray_energies", 7, ONE)
        telemetry.count("boltzray_failed_energies", 0, ONE)
        telemetry.count("boltzray_frames", 11)

    frames = totals(exported()).get("boltzray_frames_total", 0.0)
    telemetry.count("boltzray_particles", 16, ONE)
    telemetry.count("boltzray_failures", 2, ONE)
    telemetry.set_gauge("boltzray_queue_depth", 3)
    ray.get(work.remote())
    deadline = time.monotonic() + WAIT_S
    while True:
        now = totals(exported())
        now["boltzray_frames_total"] = now.get("boltzray_frames_total", 0.0) - frames
        found = {name: now.get(name) for name in EXPECTED}
        if found == EXPECTED or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert found == EXPECTED
    assert f"boltzray_failed_energies_total {ONE}" not in now, "a count of nothing makes no series"


def test_without_ray_nothing_is_counted() -> None:
    """Nor is a Ray started for it."""
    code = (
        "import ray; from boltzray.runtime import telemetry; telemetry.count('boltzray_particles', 1, 'draw'); "
        "telemetry.set_gauge('boltzray_queue_depth', 1); assert not ray.is_initialized(); "
        "assert not telemetry._counter.cache_info().currsize; assert not telemetry._gauge.cache_info().currsize"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_system_metrics_are_a_switch(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from boltzray.runtime.tracking import Tracker

    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    out = home / "run"
    out.mkdir()
    tracker = Tracker.open("train", out, {"a": 1})
    with telemetry.system_metrics(tracker.run_id, tracker.uri):
        time.sleep(0.5)
    assert not tracker.latest()
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    with telemetry.system_metrics(tracker.run_id, tracker.uri):
        deadline = time.monotonic() + 20.0
        while not tracker.latest() and time.monotonic() < deadline:
            time.sleep(0.1)
    assert "system/cpu_utilization_percentage" in tracker.latest()
