"""What every tracker shares: its place between Trainer, journal and service.

In the training process a tracker is a callback that does next to nothing: the Trainer writes the journal. In the
delivery process the same class, built anew, is opened for a run and handed the journal's records. A tracker's file is
what remains: how to open a run, how to write points, what is durable, how to end.

    setup(args, state, model)    make or find the service's run; public, may be overridden
    write(records)               log points
    confirmed()                  what a kill can't take any more
    recover()                    what the service really holds, when it is opened again
    save_artifact(path, record)  a checkpoint or other files
    rewind(step)                 take back what was shown from a step on
    close(status)                end the service's run
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from loopwright._support.env import parse_flag, read_text
from loopwright._support.log import Logger, get_logger
from loopwright.callbacks.base import TrainerCallback
from loopwright.delivery.sink import Standing
from loopwright.errors import TrackerError
from loopwright.records import Kind, Record, Run, Status
from loopwright.trackers.standalone import standalone_reporting

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState
    from loopwright.trackers.reporting import Reporting

logger: Logger = get_logger(__name__)

_POINTS = frozenset({Kind.LOG, Kind.PREDICTION})
_FILES = frozenset({Kind.CHECKPOINT, Kind.ARTIFACT})
_POINTS_SECONDS = 60.0
_FILES_SECONDS = 1800.0


class TrackerCallback(TrainerCallback):
    """Sends a run's records to a service. Derive from it to add a service.

    Class attributes:
        name: As `report_to` takes it.
        variables: The environment variables that say where and how it reports: they are kept in the journal, so that
            `loopwright sync` finds the same place. None that holds a secret.
        purges: See `delivery.sink.Sink`.
        attends: Whether it is to be open while a training is at work, though there be nothing to deliver.
        stays_here: Attributes that belong to this process and don't go along with a copy, beside those of the classes
            that it derives from; each needs a default on the class.
        sdk_modules: What is imported before it is opened, while no other tracker imports: whatever of the SDK it uses.
        ambient_module: The SDK's module, where it has a notion of the current run that user code refers to: a program
            that has imported it before training wants that run in its own process.

    Attributes:
        run: The run it is open for.
        standing: How far it was with it when it was opened.
    """

    name: ClassVar[str] = ""
    variables: ClassVar[tuple[str, ...]] = ()
    purges: ClassVar[bool] = False
    attends: ClassVar[bool] = False
    # Neither journal nor thread nor SDK object goes along.
    stays_here: ClassVar[tuple[str, ...]] = ("_reporting", "_live", "setup", "run", "standing")
    sdk_modules: ClassVar[tuple[str, ...]] = ()
    ambient_module: ClassVar[str | None] = None
    is_tracker: ClassVar[bool] = True  # the dispatcher isolates it, runs it first when training begins and last later

    # Set on the instance; here, so that a subclass needn't call the constructor.
    run: Run | None = None
    standing: Standing = Standing()
    sink_name: str = ""
    takes_own_records: bool = False
    recorded_environment: dict[str, str] | None = None
    _initialized: bool = False
    _written: int = 0
    _must_resend: bool = False
    _reporting: Reporting | None = None
    _live: tuple[Any, Any, Any] | None = None  # args, state and model, in the training process

    # What a tracker says about itself

    def constructor_arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments, JSON-able, from which the delivery process builds it anew."""
        return {}

    def given_object(self) -> Any:
        """Return the SDK's object that was handed to the constructor, or None: such a one can't leave this process."""
        return None

    def needs_training_process(self) -> str | None:
        """Return why it has to live in the training process, or None."""
        return None

    def why_off(self) -> str | None:
        """Return why it reports nothing, such as a variable that says so; or None."""
        return None

    def gives_way_to(self, other: TrackerCallback) -> bool:
        """Return whether `other`, made for the same training by its name, reports to the same service, and better."""
        return type(other) is not type(self) and isinstance(other, type(self)) and other.why_off() is None

    def wants_checkpoints(self) -> bool:
        """Return whether it takes checkpoints' files."""
        return False

    def idle_events(self) -> tuple[str, ...]:
        """Return the events at which it has nothing to do in this process: the Trainer records for it."""
        is_served = self._reporting is not None and not self.takes_own_records
        return ("on_log",) if is_served and type(self).on_log is TrackerCallback.on_log else ()

    # What a tracker does: a service's file overrides these

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Make the service's run, or go on with it.

        Arguments:
            args: The training's arguments; in the delivery process, those of the journal, secrets masked.
            state: The Trainer's state; in the delivery process, what is known of it.
            model: The model; in the delivery process None.
            kwargs: For later.
        """

    def write(self, records: Sequence[Record]) -> None:
        """Log points: records whose values are metrics by name."""
        raise NotImplementedError

    def recover(self) -> int | None:
        """Return the step from which records have to come again, as the service lost them; None where it has all."""
        return 0 if self._must_resend else None

    def confirmed(self) -> int:
        """Return the number of the last record that a kill can't take any more."""
        return self._written

    def save_artifact(self, path: Path, record: Record) -> None:
        """Take the files in the directory `path`."""

    def rewind(self, step: int) -> None:
        """Take back what was shown from `step` on, as far as the service can."""

    def close(self, status: Status) -> None:
        """End the service's run."""

    def abandon(self) -> None:
        """Let go of what is open after a failure; another instance takes over."""

    def adopt(self) -> None:
        """In the training process: make the service's run the current one of the loop's thread, without any I/O."""

    # Delivery's side

    def load(self) -> None:
        """Import `sdk_modules`; see `delivery.sink.Sink`. Override it where variables have to be set before."""
        for module in self.sdk_modules:
            importlib.import_module(module)

    def open(self, run: Run, standing: Standing) -> int | None:
        """Call `setup` for `run`; see `delivery.sink.Sink`."""
        self.run, self.standing = run, standing
        self._written = standing.confirmed
        args, state, model = self._live or (recorded_arguments(run), recorded_state(run), None)
        self.setup(args, state, model)
        self._initialized = True
        return self.recover()

    def deliver(self, records: Sequence[Record]) -> None:
        """Hand points to `write` and files to `save_artifact`, in order."""
        points: list[Record] = []
        for record in records:
            if record.kind in _POINTS:
                if record.tracker is not None or not self.takes_own_records:
                    points.append(record)
            elif record.kind in _FILES:
                self._write_some(points)
                points = []
                self._save(record)
        self._write_some(points)
        self._written = records[-1].sequence

    def deadline_seconds(self, records: Sequence[Record]) -> float:
        """Return a minute for points, half an hour for files."""
        return _FILES_SECONDS if any(record.kind in _FILES for record in records) else _POINTS_SECONDS

    def _write_some(self, points: Sequence[Record]) -> None:
        if points:
            if self._must_resend:
                self._must_resend = False
                self.standing.remember({"must_resend": False})
            self.write(points)
            self._written = points[-1].sequence

    def _save(self, record: Record) -> None:
        if not (record.kind is Kind.ARTIFACT or self.wants_checkpoints()):
            return
        path = Path(self._run_to_show().output_dir) / record.values["path"]
        if path.exists():
            self.save_artifact(path, record)
        else:
            logger.warning("%s: %s is gone and can't be taken", self.sink_name or self.name, path)

    def settle_at(self, where: Mapping[str, Any], *, has_lost: bool = False) -> None:
        """Remember which of the service's runs it is. All records come again where that was another, or has lost some.

        For `setup`, where the service can't say itself which records it holds.
        """
        reference = self.standing.reference
        has_moved = any(reference.get(name) != value for name, value in where.items())
        # Remembered until the first is written: a kill may come before delivery has gone back.
        must_resend = has_moved or has_lost or bool(reference.get("must_resend"))
        self._must_resend = must_resend and not self.standing.is_new
        self.standing.remember({**where, "must_resend": self._must_resend})

    def show_at(self, where: object) -> None:
        """Say where people find the run: an address, or a path. It is shown when the training ends."""
        self.standing.remember({"shown_at": str(where)})

    def _run_to_show(self) -> Run:
        """Return the run; it is known from the opening on."""
        if self.run is None:
            raise TrackerError(f"{type(self).__name__}.setup is called when a run begins, not before")
        return self.run

    def variable(self, name: str, default: str | None = None) -> str | None:
        """Return an environment variable as it was when the run began."""
        if self.recorded_environment is not None and name in self.recorded_environment:
            return self.recorded_environment[name] or default
        return read_text(name, default)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return an environment variable that says yes or no, as it was when the run began."""
        text = self.variable(name)
        return default if text is None else parse_flag(name, text)

    # The callback's side

    def __getstate__(self) -> dict[str, Any]:
        left_here = {name for kind in type(self).__mro__ for name in vars(kind).get("stays_here", ())}
        kept = {name: value for name, value in self.__dict__.items() if name not in left_here}
        return {**kept, "_initialized": False}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin to report, where another library's Trainer calls."""
        if self._stands_alone(args, state):
            standalone_reporting(args).begin(self, args, state, kwargs.get("model"))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record `logs` for this tracker alone, where a subclass hands on changed ones; else the Trainer does it."""
        if logs is None:
            return
        if self._stands_alone(args, state):
            standalone_reporting(args).log(self, args, state, model, logs)
        elif self.takes_own_records and self._reporting is not None:
            self._reporting.record_for(self, state, logs)

    def _stands_alone(self, args: Any, state: Any) -> bool:
        """Return whether another library's Trainer calls, on the first process of all."""
        # Its arguments know nothing of ours.
        return self._reporting is None and not hasattr(args, "tracker_open_timeout") and state.is_world_process_zero

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the checkpoint, where another library's Trainer calls."""
        if self._stands_alone(args, state):
            standalone_reporting(args).checkpoint(self, args, state, kwargs.get("model"))

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        """Record a prediction's metrics, where another library's Trainer calls."""
        if self._stands_alone(args, state):
            standalone_reporting(args).prediction(self, args, state, kwargs.get("model"), metrics)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Finish, where another library's Trainer calls."""
        if self._stands_alone(args, state):
            standalone_reporting(args).end(state)


def recorded_arguments(run: Run) -> Any:
    """Return the arguments that the journal holds, as an object like `TrainingArguments`."""
    args = SimpleNamespace(**run.arguments)
    args.output_dir = run.output_dir
    args.run_name = run.name
    args.to_dict = lambda: dict(run.arguments)
    args.to_sanitized_dict = lambda: dict(run.arguments)
    args.to_json_string = lambda: str(run.arguments)
    return args


def recorded_state(run: Run) -> Any:
    """Return what the journal knows of the Trainer's state."""
    return SimpleNamespace(
        is_world_process_zero=True,
        is_local_process_zero=True,
        is_hyper_param_search=run.trial_name is not None,
        trial_name=run.trial_name,
        trial_params=run.trial_parameters,
        global_step=0,
    )
