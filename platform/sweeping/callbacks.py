"""Record ends of trials: in their folders, and in their runs of MLflow, which are nested in the sweep's."""

from collections.abc import Sequence
from typing import Any

from ray import tune

from ..runtime.tracking import Tracker, warn_on_error
from .config import Metric, Trial
from .outcomes import Outcome, Status, mark

RUN_STATUS: dict[Status, str] = {"done": "FINISHED", "stopped": "KILLED", "diverged": "FAILED", "failed": "FAILED"}


class Records(tune.Callback):
    """Called by Tune, in the driver. A trial writes its own run; one that Tune ends has no time to close it."""

    def __init__(self, trials: Sequence[Trial], tracker: Tracker) -> None:
        self.trials = {trial.number: trial for trial in trials}
        self.tracker = tracker
        self.last: dict[int, dict[str, Any]] = {}
        self.running: set[int] = set()
        self.interrupted = False

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.interrupted:
            raise RuntimeError("stopped")  # Tune then ends the trials

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.running.add(trial.config["number"])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.last[trial.config["number"]] = result

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        last = self.last.get(number, {})
        if last.get("diverged"):
            self._end(number, "diverged", last["diverged"])
        elif last.get("final"):
            self._end(number, "done")
        else:
            self._end(number, "stopped", f"others were better after {last.get('energies')} energies")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_pickled_error() or trial.get_error()
        cause = getattr(error, "cause", None) or error
        text = " ".join(str(cause).split())
        self._end(trial.config["number"], "failed", f"{type(cause).__name__}: {text[-400:]}")

    def _end(self, number: int, status: Status, message: str = "") -> None:
        if self.interrupted:  # Tune ends what it will go on with
            return
        self.running.discard(number)
        mark(self.trials[number], status, message)
        with warn_on_error("closing a trial's MLflow run"):
            if run := Tracker.find(self.trials[number].folder):
                run.tag({"status": status, "message": message})
                run.end(RUN_STATUS[status])

    def best(self, ended: int, top: Outcome | None, metric: Metric) -> None:
        """Log the sweep's own curve: the best so far, over the number of trials that have ended."""
        found = {f"best_{metric}": top.score(metric), "best_trial": top.trial.number} if top else {}
        with warn_on_error("logging the best trial"):
            self.tracker.log({"trials_ended": ended, **found}, step=ended)

    def close(self) -> None:
        """End the MLflow runs of trials that were under way when the sweep ended."""
        for number in sorted(self.running):
            with warn_on_error("closing a trial's MLflow run"):
                if run := Tracker.find(self.trials[number].folder):
                    run.end("KILLED")
