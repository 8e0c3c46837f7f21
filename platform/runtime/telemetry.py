"""Metrics for Prometheus and Ray's dashboard: counts, of which Grafana makes rates. System metrics for MLflow.

Prometheus knows `boltzray_energies` as `ray_boltzray_energies_total`; see cluster/grafana.json.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge


class Meaning(NamedTuple):
    """Description of a metric, and the name of its label, if it has one."""

    text: str
    label: str | None = None


COUNTERS = {
    "boltzray_particles": Meaning("conformations drawn by a flow, or moved by a kernel of SMC", "stage"),
    "boltzray_energies": Meaning("energies computed", "engine"),
    "boltzray_failed_energies": Meaning("energies of conformations that have none", "engine"),
    "boltzray_frames": Meaning("frames trained on"),
    "boltzray_tokens": Meaning("atoms of the frames trained on"),
    "boltzray_failures": Meaning("calls and workers lost with their process or node", "kind"),
}
GAUGES = {"boltzray_queue_depth": Meaning("calls to actors that a driver still waits for")}


def with_ray() -> bool:
    """Return True if this process is connected to a Ray cluster; does not import Ray, which takes a second."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


@cache
def _counter(name: str) -> "Counter":
    from ray.util.metrics import Counter

    meaning = COUNTERS[name]
    return Counter(name, meaning.text, (meaning.label,) if meaning.label else ())


@cache
def _gauge(name: str) -> "Gauge":
    from ray.util.metrics import Gauge

    return Gauge(name, GAUGES[name].text)


def count(name: str, amount: int, label: str | None = None) -> None:
    """Add `amount` to a counter. Does nothing without Ray, which would export it."""
    if amount > 0 and with_ray():
        key = COUNTERS[name].label
        _counter(name).inc(amount, {key: label} if key and label else {})


def set_gauge(name: str, value: float) -> None:
    """Set a gauge. Does nothing without Ray, as `count`."""
    if with_ray():
        _gauge(name).set(value)


@contextmanager
def system_metrics(run_id: str, uri: str) -> Iterator[None]:
    """Log CPU, memory, disk, network and GPU of this node to an MLflow run, as `system/…`, during a `with`.

    Only with MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true; MLflow needs nvidia-ml-py to see a GPU.
    """
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        yield
        return
    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
