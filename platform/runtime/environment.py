"""Environment variables for Ray, which reads them when it is imported, and MLflow: call `prepare` before that."""

import os
import secrets


def prepare() -> None:
    """Set defaults for Ray and MLflow in this process and its children; a variable that is set already stays.

    A local cluster listens on loopback alone, and is guarded from other users by a token of its own, which leaves no
    file behind (Ray would write one to the home folder, and later commands of Ray would stumble over it).
    """
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Train's workers wait until a report has been fetched: with Ray's 2 s a run that reports more often would idle.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # A store that does not answer costs seconds; with MLflow's own 7 and 120 s a job would stand still for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # that it makes its database is no news
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_ADDRESS" in os.environ:
        return
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # as on those: a local cluster is on loopback alone
    # A busy machine is no dead node, which Ray would end, and this process with it, after a minute without an answer.
    os.environ.setdefault("RAY_health_check_failure_threshold", "100")
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
