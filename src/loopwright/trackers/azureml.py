"""Report to Azure Machine Learning: the run of the job that the program is in, or one that is handed over.

There are two ways to a job's run, and the summary says which one was taken:

    azureml-core ─▶ the run itself: numbers have keys, and what the run holds is not sent again
    azureml-mlflow ─▶ where azureml-core isn't installed: all that `MLflowCallback` does, in the job's run

Outside a job, and without a run, it is off.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from loopwright._support.env import read_all, read_text, set_variables
from loopwright._support.extras import is_installed, require_installed
from loopwright._support.log import Logger, get_logger
from loopwright.errors import TrackerError
from loopwright.records import Record, Run, Status
from loopwright.trackers import azureml_session as sessions
from loopwright.trackers.azureml_session import PlainSession, RunSession
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.description import origin
from loopwright.trackers.mlflow import MLflowCallback
from loopwright.trackers.presence import training_beside

logger: Logger = get_logger(__name__)

CORE, MLFLOW = "azureml.core", "azureml.mlflow"
MLFLOW_SCHEME = "azureml://"
_JOB = (
    "AZUREML_RUN_ID",
    "AZUREML_ARM_SUBSCRIPTION",
    "AZUREML_ARM_RESOURCEGROUP",
    "AZUREML_ARM_WORKSPACE_NAME",
    "AZUREML_ARM_PROJECT_NAME",
    "AZUREML_SERVICE_ENDPOINT",
)


class AzureMLCallback(TrackerCallback):
    """A `TrainerCallback` that sends the logs to Azure ML.

    Arguments:
        azureml_run: The run to log to; by default that of the job. It stays the caller's to end.

    Environment, set by Azure in a job:
        AZUREML_RUN_ID, AZUREML_ARM_SUBSCRIPTION, AZUREML_ARM_RESOURCEGROUP, AZUREML_ARM_WORKSPACE_NAME,
        AZUREML_ARM_PROJECT_NAME, AZUREML_SERVICE_ENDPOINT: The job; without one of them the first way is closed.
        AZUREML_RUN_TOKEN: Its token.
        MLFLOW_TRACKING_URI, MLFLOW_RUN_ID, MLFLOW_EXPERIMENT_NAME, MLFLOW_TRACKING_TOKEN: The same for MLflow.
    """

    name: ClassVar[str] = "azure_ml"
    variables: ClassVar[tuple[str, ...]] = (
        *_JOB,
        "AZUREML_EXPERIMENT_ID",
        "AZUREML_WORKSPACE_ID",
        "AZUREML_DISCOVERY_SERVICE_ENDPOINT",
        *MLflowCallback.variables,
    )
    stays_here: ClassVar[tuple[str, ...]] = ("azureml_run", "_given", "_plain", "_session", "_mlflow")

    azureml_run: Any = None
    _given: Any = None
    _plain: PlainSession | None = None  # of an object that was handed over, for as long as this tracker lives
    _session: RunSession | PlainSession | None = None
    _mlflow: MLflowCallback | None = None
    _is_ours: bool = False  # a trial's run, which nobody else ends
    _settled: int = 0

    def __init__(self, azureml_run: Any = None) -> None:
        if azureml_run is None and not is_installed(MLFLOW):
            require_installed(CORE, extra="azure_ml", purpose="AzureMLCallback")
        self.azureml_run = self._given = azureml_run

    # What it says about itself

    def given_object(self) -> Any:
        """Return the run that was handed over."""
        return self._given

    def why_off(self) -> str | None:
        """Return why, outside of a job."""
        if self._given is not None or self._way() is not None:
            return None
        if self.variable("AZUREML_RUN_ID") is None:
            return "the program is in no Azure ML job (AZUREML_RUN_ID is not set)"
        missing = [name for name in _JOB if self.variable(name) is None]
        if missing and is_installed(CORE):
            return f"AZUREML_RUN_ID is set, but not {', '.join(missing)}"
        needed = f"azureml-mlflow, MLFLOW_TRACKING_URI={MLFLOW_SCHEME}… and MLFLOW_RUN_ID"
        return f"azureml-core is not installed, and without it this needs {needed}"

    def gives_way_to(self, other: TrackerCallback) -> bool:
        """Return whether `other` is MLflow's, and reports to this very run, all that this one would and more."""
        is_mlflows = isinstance(other, MLflowCallback) and self._given is None and self._has_mlflow()
        return super().gives_way_to(other) or (is_mlflows and other.why_off() is None)

    def wants_checkpoints(self) -> bool:
        """Return what HF_MLFLOW_LOG_ARTIFACTS says, where the way is MLflow's."""
        return self._given is None and self._way() == MLFLOW and self.flag("HF_MLFLOW_LOG_ARTIFACTS")

    def _way(self) -> str | None:
        """Return the SDK that leads to the job's run, or None."""
        if is_installed(CORE) and all(self.variable(name) is not None for name in _JOB):
            return CORE
        return MLFLOW if self._has_mlflow() else None

    def _has_mlflow(self) -> bool:
        uri = self.variable("MLFLOW_TRACKING_URI") or ""
        is_named = uri.startswith(MLFLOW_SCHEME) and self.variable("MLFLOW_RUN_ID") is not None
        return is_named and is_installed(MLFLOW) and is_installed("mlflow")

    # The run

    def load(self) -> None:
        """Import the SDK of the way to the job's run; one that was handed over has been imported."""
        way = self._way() if self._given is None else None
        if way == CORE:
            importlib.import_module("azureml.core.run")
        elif way == MLFLOW:
            for module in MLflowCallback.sdk_modules:
                importlib.import_module(module)

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Find the run; a trial of a search gets one below it."""
        run, reference = self._run_to_show(), self.standing.reference
        self._settled = self.standing.confirmed
        if self._given is None and reference.get("was_given") and self._live is None and training_beside(run) is None:
            raise TrackerError(
                "the run was handed over by the program: a training that goes on with it delivers the rest"
            )
        self.standing.remember({"was_given": self._given is not None})
        if self._given is None and self._way() == MLFLOW:
            self._open_mlflow(args, state, model, **kwargs)
            return
        session = self._session = self._find(run)
        self.settle_at({"azureml_run_id": session.run_id})
        self.show_at(session.address)
        if isinstance(session, RunSession):
            session.set_tags(origin(run, "loopwright."))

    def _find(self, run: Run) -> RunSession | PlainSession:
        if self._given is not None and not sessions.is_of_service(self._given):
            self._plain = self._plain or PlainSession(self._given)
            return self._plain
        if self._given is None:
            self.azureml_run = sessions.run_of_job(self._recorded(), is_shared=self._live is not None)
        session = RunSession(self.azureml_run)
        self._is_ours = run.trial_name is not None
        if run.trial_name is None:
            return session
        return session.child(run.trial_name, f"{session.run_id}_{run.id}")

    def _recorded(self) -> dict[str, str]:
        """Return the job's variables as they were when the run began."""
        return {name: text for name in self.variables if (text := self.variable(name)) is not None}

    def _open_mlflow(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        set_variables(self._recorded())
        if read_text("MLFLOW_TRACKING_TOKEN") is None or not read_all(
            ["MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"]
        ):
            raise TrackerError(  # azureml-mlflow would open a browser
                "MLFLOW_TRACKING_TOKEN, or the experiment, is not set: they are in a job's own environment alone, so "
                "deliver inside it"
            )
        inner = self._mlflow = MLflowCallback()
        reference = self.standing.reference
        # A run that was reached the other way before is still the same one.
        known = {"mlflow_run_id": reference["azureml_run_id"]} if "azureml_run_id" in reference else {}
        inner.run, inner.standing = self.run, dataclasses.replace(self.standing, reference={**known, **reference})
        inner.sink_name, inner.recorded_environment, inner._written = self.sink_name, self.recorded_environment, 0
        inner.setup(args, state, model, **kwargs)
        self.standing.remember({"azureml_run_id": inner._run_id})
        self.show_at(f"{self.variable('MLFLOW_TRACKING_URI')} (run {inner._run_id}, through MLflow)")

    def _opened(self) -> RunSession | PlainSession:
        if self._session is None:
            raise TrackerError("AzureMLCallback is not open")
        return self._session

    # Records

    def recover(self) -> int | None:
        """Return 0 where this run is not the one that has got the records so far."""
        if self._mlflow is not None:
            return self._mlflow.recover()
        return super().recover()

    def write(self, records: Sequence[Record]) -> None:
        """Log numbers; texts stay in the journal."""
        if self._mlflow is not None:
            self._mlflow.deliver(records)
            return
        session, run = self._opened(), self._run_to_show()
        self._settled = min(self._settled, records[0].sequence - 1)  # they may come again
        session.log([point for record in records for point in sessions.points_of(run.id, record)])

    def confirmed(self) -> int:
        """Return the last record that the service has taken in, not only been sent."""
        if self._mlflow is not None:
            return self._written
        if self._settled != self._written and self._opened().settle():
            self._settled = self._written
        return self._settled

    def deadline_seconds(self, records: Sequence[Record]) -> float:
        """Return longer where many requests are needed: each ends in time by itself."""
        if self._mlflow is not None:
            return self._mlflow.deadline_seconds(records)
        names = {name for record in records for name in record.values}
        count = sum(len(record.values) for record in records)
        requests = 2 + len(names) + count // sessions.POINTS_PER_REQUEST
        return max(super().deadline_seconds(records), requests * sessions.REQUEST_SECONDS)

    def save_artifact(self, path: Path, record: Record) -> None:
        """Store the files, where the way is MLflow's; through azureml-core go numbers alone, as in transformers."""
        if self._mlflow is not None:
            self._mlflow.save_artifact(path, record)

    def rewind(self, step: int) -> None:
        """Say in a tag that numbers from `step` on have newer ones beside them: Azure ML can't take them back."""
        if self._mlflow is not None:
            self._mlflow.rewind(step)
        elif isinstance(self._session, RunSession):
            self._session.set_tags({"loopwright.rewound_to_step": step})

    def close(self, status: Status) -> None:
        """See that all is taken in, and end a trial's run: the job's is Azure's to end, a given one its owner's."""
        if self._mlflow is not None:
            self._mlflow.close(status)
        elif self._session is not None:
            if not self._session.settle():
                raise TrackerError("Azure ML is still taking in what it was sent")
            if self._is_ours and isinstance(self._session, RunSession):
                self._session.end(status)
        self.abandon()

    def abandon(self) -> None:
        """Let the run go; nothing is held open."""
        self._session = self._mlflow = None
