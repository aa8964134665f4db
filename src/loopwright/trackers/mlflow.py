"""Report to MLflow: a run on a tracking server or in a database.

MLflow keeps one point for the same name, value, step and time, and a record carries its own time: what is sent twice is
there once. In the training process the run becomes the active one of the thread that trains.

Which run it is, the first of these that there is:

    MLFLOW_RUN_ID ─▶ the program's active run ─▶ the one remembered ─▶ the one tagged "loopwright.run_id" ─▶ a new one
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from loopwright._support.extras import require_installed
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import RecordRefused, TrackerError
from loopwright.records import Record, Run, Status
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.description import origin
from loopwright.trackers.mlflow_client import (
    HIDDEN,
    POINTS_PER_REQUEST,
    REQUEST_SECONDS,
    MLflowService,
    Point,
    Refused,
    absolute_uri,
    active_run_of_program,
    find_search_run,
    fit_name,
    make_active,
    user_tag,
    without_password,
)
from loopwright.trackers.naming import group_name, numbers

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState

logger: Logger = get_logger(__name__)


class MLflowCallback(TrackerCallback):
    """A `TrainerCallback` that sends the logs to MLflow.

    Environment:
        MLFLOW_TRACKING_URI: The server, or the database. MLflow's own default is `sqlite:///mlflow.db` in the
            directory that the program was started in.
        MLFLOW_EXPERIMENT_NAME: The experiment, made where there is none; by default MLflow's own default one.
        MLFLOW_TAGS: A JSON object of tags for the run.
        MLFLOW_NESTED_RUN: Whether to make a child of the program's active run, instead of using that.
        MLFLOW_RUN_ID: The run to go on with. A trial of a hyper-parameter search becomes a child of it, and without
            it of a run that stands for the search.
        MLFLOW_FLATTEN_PARAMS: Whether what is inside a parameter gets a name of its own: "outer.inner".
        MLFLOW_MAX_LOG_PARAMS: How many parameters to log at most.
        HF_MLFLOW_LOG_ARTIFACTS: Whether to store every checkpoint among the run's artifacts.
        DISABLE_MLFLOW_INTEGRATION: Whether to report nothing.
    """

    name: ClassVar[str] = "mlflow"
    sdk_modules: ClassVar[tuple[str, ...]] = ("mlflow", "mlflow.tracking.fluent")
    variables: ClassVar[tuple[str, ...]] = (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_TAGS",
        "MLFLOW_NESTED_RUN",
        "MLFLOW_RUN_ID",
        "MLFLOW_FLATTEN_PARAMS",
        "MLFLOW_MAX_LOG_PARAMS",
        "MLFLOW_ALLOW_FILE_STORE",
        "HF_MLFLOW_LOG_ARTIFACTS",
    )
    ambient_module: ClassVar[str | None] = "mlflow"
    stays_here: ClassVar[tuple[str, ...]] = ("_service", "_service_run", "_leave_thread")

    _service: MLflowService | None = None
    _service_run: Any = None
    _search_run: Any = None
    _is_programs_run: bool = False  # then it is not ours to begin or end
    _is_cut: bool = False  # whether the run lacks some of the parameters' text
    _has_renamed: bool = False
    _last_time: float | None = None
    _leave_thread: Callable[[], None] | None = None  # undoes `adopt`

    def __init__(self) -> None:
        require_installed("mlflow", extra="mlflow", purpose="MLflowCallback")

    @property
    def _ml_flow(self) -> Any:
        """The SDK, by the name that subclasses of transformers' callback use."""
        import mlflow

        return mlflow

    def why_off(self) -> str | None:
        """Return what switches it off."""
        if self.flag("DISABLE_MLFLOW_INTEGRATION"):
            return "DISABLE_MLFLOW_INTEGRATION says so"
        # Read here so that the user sees what is wrong: what the delivery process says goes to its log.
        self._wanted_tags()
        self._most_parameters()
        return None

    def wants_checkpoints(self) -> bool:
        """Return what HF_MLFLOW_LOG_ARTIFACTS says."""
        return self.flag("HF_MLFLOW_LOG_ARTIFACTS")

    # The run

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Find or make MLflow's run; log tags and parameters."""
        run = self._run_to_show()
        uri = self._choose_uri()
        self._service = self._connect(uri)
        self._service_run = self._settle_on_run(self._service, run)
        self.settle_at({"mlflow_run_id": self._run_id})
        self.standing.remember({"is_programs_run": self._is_programs_run})
        self.show_at(f"{without_password(uri)} (run {self._run_id})")
        self._describe(self._service, run)

    def _connect(self, uri: str) -> MLflowService:
        """Return the server or database at `uri`."""
        return MLflowService(uri)

    def _open_service(self) -> MLflowService:
        if self._service is None:
            raise TrackerError("MLflowCallback is not open")
        return self._service

    @property
    def _run_id(self) -> str:
        return str(self._service_run.info.run_id)

    def _choose_uri(self) -> str:
        """Return where the run is: the same place as before, whatever directory this process is in."""
        asked, reference = self.variable("MLFLOW_TRACKING_URI"), self.standing.reference
        before = reference.get("tracking_uri")
        if self._live is None and before is not None:
            if asked is None and HIDDEN in before:
                raise TrackerError(f"the run is at {before}: set MLFLOW_TRACKING_URI, as no password is kept")
            if HIDDEN not in before and reference.get("asked_uri") == asked:
                return str(before)
        # In the training process the program has the last word, through set_tracking_uri.
        uri = absolute_uri(asked if asked is not None and self._live is None else self._ml_flow.get_tracking_uri())
        places = {"asked_uri": asked and without_password(asked), "tracking_uri": without_password(uri)}
        self.standing.remember(places)
        return uri

    def _settle_on_run(self, service: MLflowService, run: Run) -> Any:
        wanted, is_trial = self.variable("MLFLOW_RUN_ID"), run.trial_name is not None
        active = active_run_of_program() if self._live is not None else None
        self._is_programs_run = False
        if wanted is not None and not is_trial:
            self._is_programs_run = active is not None and active.info.run_id == wanted
            return self._go_on(service, service.require_run(wanted), run)
        if active is not None and not is_trial and not self.flag("MLFLOW_NESTED_RUN"):
            self._is_programs_run = True
            return self._go_on(service, service.require_run(active.info.run_id), run)
        remembered = self.standing.reference.get("mlflow_run_id")
        found = None if remembered is None else service.find_run(remembered)
        if found is not None:
            self._is_programs_run = bool(self.standing.reference.get("is_programs_run"))
            return self._go_on(service, found, run)
        parent = active if wanted is None else service.require_run(wanted)
        experiment = self._experiment_id(service, parent)
        # A session that was killed may have made the run and not remembered it.
        found = service.find_tagged(experiment, "loopwright.run_id", run.id)
        if parent is None and run.search_id is not None:
            parent = self._search_run = find_search_run(service, experiment, run)
        return self._make_run(service, experiment, run, parent) if found is None else self._go_on(service, found, run)

    def _experiment_id(self, service: MLflowService, parent: Any) -> str:
        name = self.variable("MLFLOW_EXPERIMENT_NAME")
        if name is not None:
            return service.experiment_id(name)
        by_default = "0" if parent is None else str(parent.info.experiment_id)
        return self.variable("MLFLOW_EXPERIMENT_ID") or by_default

    def _make_run(self, service: MLflowService, experiment: str, run: Run, parent: Any) -> Any:
        from mlflow.tracking.context import registry

        tags = registry.resolve_tags() | user_tag()
        if self._live is None:  # program and repository would be the delivery's
            tags = {name: text for name, text in tags.items() if name == "mlflow.user"}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent.info.run_id
        return service.make_run(experiment, run.trial_name or run.name, run.created_at, tags | self._tags(run))

    def _go_on(self, service: MLflowService, found: Any, run: Run) -> Any:
        if not self._is_programs_run and found.info.status != "RUNNING":
            service.set_running(found.info.run_id)
        service.set_tags(found.info.run_id, self._tags(run))
        return found

    def _tags(self, run: Run) -> dict[str, str]:
        own = origin(run, "loopwright.") | ({} if run.trial_name is None else {"loopwright.trial": run.trial_name})
        return self._wanted_tags() | {name: str(value) for name, value in own.items()}

    def _wanted_tags(self) -> dict[str, str]:
        text = self.variable("MLFLOW_TAGS", "{}") or "{}"
        try:
            return {fit_name(name): str(value) for name, value in json.loads(text).items()}
        except (ValueError, AttributeError):
            expected = 'expected a JSON object such as {"release.version": "2.2.0"}'
            warn_once(logger, f"environment variable MLFLOW_TAGS={text!r}: {expected}; no tags are set")
            return {}

    # Parameters

    def _describe(self, service: MLflowService, run: Run) -> None:
        """Log the parameters that MLflow has not got yet; it never changes one."""
        wanted, logged = self._parameters(run), self._service_run.data.params
        changed = [name for name, text in wanted.items() if logged.get(name, text) != text]
        try:
            service.log_parameters(self._run_id, {name: text for name, text in wanted.items() if name not in logged})
        except Refused as error:  # an older server takes less; points are not to wait for that
            self._is_cut = True
            logger.warning("mlflow refuses parameters, all will be in parameters.json: %s", error)
        if changed:
            logger.info("mlflow: changed parameters keep their first value there: %s", ", ".join(changed))
            service.set_tags(self._run_id, {"loopwright.changed_parameters": ", ".join(changed)})

    def _parameters(self, run: Run) -> dict[str, str]:
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH as LONGEST

        values = dict(_flatten(run.parameters)) if self.flag("MLFLOW_FLATTEN_PARAMS") else run.parameters
        texts: dict[str, str] = {}
        for name, value in values.items():
            texts[self._fit_name(name, texts)] = str(value)
        kept = dict(list(texts.items())[: self._most_parameters()])
        num_long = sum(len(text) > LONGEST for text in kept.values())
        self._is_cut = len(kept) < len(texts) or num_long > 0
        if self._is_cut:
            logger.warning(
                "mlflow: %d of %d parameters are logged, %d cut to %d characters; all will be in parameters.json",
                *(len(kept), len(texts), num_long, LONGEST),
            )
        return {name: text[:LONGEST] for name, text in kept.items()}

    def _most_parameters(self) -> int | None:
        text = self.variable("MLFLOW_MAX_LOG_PARAMS")
        if text is None or text.isdecimal():
            return None if text is None else int(text)
        warn_once(
            logger, f"environment variable MLFLOW_MAX_LOG_PARAMS={text!r}: expected a whole number; all are logged"
        )
        return None

    def _fit_name(self, name: str, taken: Collection[str]) -> str:
        fitting = fit_name(name)
        while fitting in taken:
            fitting += "_"
        if fitting != name and not self._has_renamed:
            self._has_renamed = True
            logger.warning("mlflow doesn't take every name: %r is %r there, and others likewise", name, fitting)
        return fitting

    # Records

    def write(self, records: Sequence[Record]) -> None:
        """Log numbers; texts stay in the journal."""
        service = self._open_service()
        try:
            service.log_points(self._run_id, [point for record in records for point in self._points(record)])
        except Refused:
            self._find_refused(service, records)
        self._last_time = records[-1].time

    def _points(self, record: Record) -> list[Point]:
        points: dict[str, Point] = {}
        for name, value in numbers(record.values):
            fitting = self._fit_name(group_name(name), points)
            points[fitting] = Point(fitting, value, record.step, int(record.time * 1000))
        return list(points.values())

    def _find_refused(self, service: MLflowService, records: Sequence[Record]) -> None:
        """Send records one by one, and name the first that MLflow will never take."""
        service.find_run(self._run_id)  # of a deleted run it takes none, and that is another error
        for record in records:
            try:
                service.log_points(self._run_id, self._points(record))
            except Refused as error:
                raise RecordRefused(record.sequence, str(error)) from error

    def deadline_seconds(self, records: Sequence[Record]) -> float:
        """Return longer where many requests are needed: MLflow itself ends each in time."""
        requests = 1 + sum(len(record.values) for record in records) // POINTS_PER_REQUEST
        return max(super().deadline_seconds(records), requests * REQUEST_SECONDS)

    def save_artifact(self, path: Path, record: Record) -> None:
        """Store the files under the directory's name."""
        self._open_service().store_files(self._run_id, path)

    def rewind(self, step: int) -> None:
        """Say in tags that points from `step` on have newer ones beside them: MLflow can't take points back."""
        service = self._open_service()
        before = service.require_run(self._run_id).data.tags.get("loopwright.num_rewinds", "0")
        own = {"loopwright.rewound_to_step": step, "loopwright.num_rewinds": int(before) + 1}
        service.set_tags(self._run_id, own)

    def close(self, status: Status) -> None:
        """End the run, unless it is the program's own."""
        self._leave()
        if self._service is None or self._service_run is None:
            return
        if not self._is_programs_run:
            word = "FINISHED" if status.is_success else "FAILED" if status is Status.FAILED else "KILLED"
            self._service.end(self._run_id, word, self._last_time)  # late delivery doesn't make it longer
        if self._search_run is not None:  # nobody says which trial is the last: the next one opens it again
            self._service.end(self._search_run.info.run_id, "FINISHED", self._last_time)
        if self._is_cut:
            self._store_parameters(self._service)
        self.abandon()
        self._leave()  # a log line may have come meanwhile

    def _store_parameters(self, service: MLflowService) -> None:
        # At the end, and tried once: a run may have no place for files, and its points are not to wait for one.
        try:
            service.store_values(self._run_id, self._run_to_show().parameters, "parameters.json")
        except Exception as error:
            logger.warning("mlflow: parameters.json can't be stored: %s", error)

    def abandon(self) -> None:
        """Let the client go; it holds nothing open."""
        self._service = self._service_run = self._search_run = self._last_time = None

    # The training process

    def adopt(self) -> None:
        """Make the run the active one of this thread, for the program's `mlflow.log_metric`."""
        self._leave()
        if self._service_run is not None and not self._is_programs_run:
            self._leave_thread = make_active(self._service_run)

    def _leave(self) -> None:
        leave, self._leave_thread = self._leave_thread, None
        if leave is not None:
            leave()

    def on_log(  # type: ignore[override]  # transformers' own takes `logs` before `model`
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Record `logs`; see `TrackerCallback.on_log`."""
        if self._leave_thread is None:  # it may have opened after training began
            self.adopt()
        super().on_log(args, state, control, model=model, logs=logs, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the thread as it was found."""
        super().on_train_end(args, state, control, **kwargs)
        self._leave()

    def on_exception(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the thread as it was found."""
        self._leave()


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
