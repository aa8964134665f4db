"""Report to Neptune: a run on a server of one's own, or offline in files that `neptune sync` sends.

The hosted service has been shut down. Without a token for another address a run is kept offline, in the training's
output directory. All sessions of a run go on in one folder, or find the server's run by an id that is the run's own.

    <base_namespace>/train/loss, eval/loss, …                  series
    <base_namespace>/train/epoch                               the newest value
    <base_namespace>/trainer_parameters, model_parameters      what the run began with
    <base_namespace>/trial, trial_params                       of a hyper-parameter search
    <base_namespace>/checkpoints                               files
    <base_namespace>/loopwright                                what is needed to go on with the run
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from loopwright._support.extras import require_installed
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import ArgumentError, TrackerError
from loopwright.records import Kind, Record, Run, Status
from loopwright.trackers import neptune_choices as choices
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.description import describe_run, origin
from loopwright.trackers.neptune_choices import NeptuneMissingConfiguration
from loopwright.trackers.neptune_session import Fields, Session, begin, load_sdk

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState

__all__ = ["NeptuneCallback", "NeptuneMissingConfiguration"]

logger: Logger = get_logger(__name__)


class NeptuneCallback(TrackerCallback):
    """A `TrainerCallback` that sends the logs to Neptune.

    Arguments:
        api_token: Neptune's token, which holds the server's address. Better set NEPTUNE_API_TOKEN: a token that is
            given here is written nowhere, so the tracker has to live in the training process.
        project: "workspace/project". By default what NEPTUNE_PROJECT says.
        name: The run's name in Neptune. By default the argument `run_name`.
        base_namespace: Where in the run everything is.
        run: A run of Neptune's to go on with; it is not ended. The tracker then lives in the training process.
        log_parameters: Whether to log the arguments and the model's configuration.
        log_checkpoints: "same" stores every checkpoint, "last" the newest, "best" the best of those that are saved;
            None, the default, stores none.
        neptune_run_kwargs: More arguments for `neptune.init_run()`. Nothing is captured unless it is asked for here.

    Environment:
        NEPTUNE_API_TOKEN: The token. It is never recorded.
        NEPTUNE_PROJECT: "workspace/project".
        NEPTUNE_MODE: "async" or "sync" sends, "offline" keeps the run in files, "debug" stores nothing. By default
            async where token and project are there, else offline.
        NEPTUNE_DATA_DIRECTORY: Where what isn't sent is kept, by default `<output_dir>/.neptune`. `neptune sync` wants
            it to be called ".neptune".
        NEPTUNE_CUSTOM_RUN_ID: The server's run to go on with. Branches and trials have an id of their own.
    """

    name: ClassVar[str] = "neptune"
    variables: ClassVar[tuple[str, ...]] = choices.VARIABLES
    stays_here: ClassVar[tuple[str, ...]] = ("_session", "_made", "_given")

    # As in transformers.
    model_parameters_key: ClassVar[str] = "model_parameters"
    trial_name_key: ClassVar[str] = "trial"
    trial_params_key: ClassVar[str] = "trial_params"
    trainer_parameters_key: ClassVar[str] = "trainer_parameters"
    flat_metrics: ClassVar[frozenset[str]] = frozenset({"train/epoch"})

    _given: Any = None
    _session: Session | None = None
    _made: Any = None  # a run that `get_run` made, before there was anything to report

    def __init__(  # noqa: PLR0913 -- transformers' signature
        self,
        *,
        api_token: str | None = None,
        project: str | None = None,
        name: str | None = None,
        base_namespace: str = "finetuning",
        run: Any = None,
        log_parameters: bool = True,
        log_checkpoints: str | None = None,
        **neptune_run_kwargs: Any,
    ) -> None:
        require_installed("neptune", extra="neptune", purpose="NeptuneCallback")
        texts = {"api_token": api_token, "project": project, "name": name, "base_namespace": base_namespace}
        choices.check_arguments(texts, log_parameters, log_checkpoints, run)
        choices.check_options(neptune_run_kwargs)
        self._given = run
        self._api_token = api_token
        self._project = project
        self._run_name = name
        self._fields = Fields(base_namespace or "")
        self._log_parameters = log_parameters
        self._log_checkpoints = log_checkpoints
        self._options = neptune_run_kwargs

    # What it says about itself

    def constructor_arguments(self) -> dict[str, Any]:
        """Return the arguments but for the token, a run, and what can't be written down."""
        return {
            "project": self._project,
            "name": self._run_name,
            "base_namespace": self._fields.base,
            "log_parameters": self._log_parameters,
            "log_checkpoints": self._log_checkpoints,
            **choices.recordable(self._options),
        }

    def given_object(self) -> Any:
        """Return the run that was handed over, or that `get_run` made."""
        return self._given if self._given is not None else self._made

    def needs_training_process(self) -> str | None:
        """Return which argument can't leave it."""
        if self._api_token is not None:
            return "a token given to the constructor is written nowhere (NEPTUNE_API_TOKEN would do without)"
        captured = [name for name in choices.OF_THE_TRAINING if self._options.get(name)]
        left = [*captured, *sorted(self._options.keys() - choices.recordable(self._options).keys())]
        return f"{', '.join(left)} can't leave it" if left else None

    def why_off(self) -> str | None:
        """Return the mode that stores nothing."""
        if self._given is not None:
            return None
        mode = choices.asked_mode(self._options, self.variable)
        return f'the mode "{mode}" stores nothing' if mode in {"debug", "read-only"} else None

    def wants_checkpoints(self) -> bool:
        """Return what `log_checkpoints` says."""
        return self._log_checkpoints is not None

    # The program's side

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check that there will be a best checkpoint where that is to be stored.

        Raises:
            ArgumentError: there won't.
        """
        if self._log_checkpoints == "best" and not args.load_best_model_at_end:
            raise ArgumentError(
                "log_checkpoints='best' needs load_best_model_at_end=True: else no checkpoint is the best"
            )

    @classmethod
    def get_run(cls, trainer: Any) -> Any:
        """Return Neptune's run of a Trainer, to log to it; the tracker then works in this process.

        Where training has not begun it is made here and now.

        Raises:
            TrackerError: the Trainer has no `NeptuneCallback`, or it works in the delivery process already.
        """
        found = next((callback for callback in trainer.callback_handler.callbacks if isinstance(callback, cls)), None)
        if found is None:
            raise TrackerError(f"the Trainer has no {cls.__name__} among its callbacks")
        return found._own_run(trainer)

    def _own_run(self, trainer: Any) -> Any:
        present = self.given_object() if self._session is None else self._session.run
        if present is not None:
            return present
        is_at_work = self._reporting is not None and self._reporting.recorder is not None
        if is_at_work and self._live is None and self.why_off() is None:
            raise TrackerError(
                "Neptune's run is open in the delivery process, and can't be had here: call NeptuneCallback.get_run() "
                "before train(), or hand a run of your own to NeptuneCallback(run=...)"
            )
        run = self.run or describe_run(trainer, began=None, parent=None)
        self._made = self._make_run(run)
        return self._made

    # The run

    def load(self) -> None:
        """Import the SDK, quietly."""
        load_sdk()

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Open Neptune's run, or go on with it or with the program's."""
        self.abandon()
        self._session = self._begin()

    def _begin(self) -> Session:
        run, ready = self._run_to_show(), self.given_object()
        opened = self._make_run(run) if ready is None else ready
        session = Session(opened, self._fields, owner=run.id, is_users=self._given is not None)
        if ready is None:
            session.forget_at_exit()
        try:
            session.look_back()
            self._remember(session, run)
            self._describe(session, run)
        except BaseException:
            session.drop()
            self._made = None
            raise
        return session

    def _make_run(self, run: Run) -> Any:
        mode = self._choose_mode(run)
        token, project = choices.own_token(self._api_token), self._project or self.variable("NEPTUNE_PROJECT")
        options = {**self._options, "mode": mode, "name": self._run_name or _name_of(run)}
        if mode in {"async", "sync"}:
            token = choices.require_configuration(token, project)
            options |= {"api_token": token, "project": project}
            if "with_id" not in options:
                asked = options.get("custom_run_id") or self.variable("NEPTUNE_CUSTOM_RUN_ID")
                options["custom_run_id"] = choices.choose_custom_id(run, self._own_id(run), asked)
        return begin(self._directory(run), self._own_id(run), options)

    def _choose_mode(self, run: Run) -> str:
        """Return the mode; say once what becomes of a run that isn't sent."""
        asked, before = choices.asked_mode(self._options, self.variable), self.standing.reference.get("mode")
        if asked is not None or before is not None:
            mode, why = str(asked or before), None
        else:
            token = choices.own_token(self._api_token)
            why = choices.why_offline(token, self._project or self.variable("NEPTUNE_PROJECT"))
            mode = "async" if why is None else "offline"
        if mode == "offline" and before is None:
            warn_once(
                logger,
                f"neptune: {f'{why}, so ' if why else ''}the run is kept offline; Neptune's hosted service has been "
                f"shut down: `neptune sync --path {self._directory(run)} --project WORKSPACE/PROJECT` sends it to a "
                "server of your own",
            )
        return mode

    def _directory(self, run: Run) -> Path:
        return choices.choose_directory(run, self.variable, self.standing.reference.get("directory"))

    def _own_id(self, run: Run) -> str:
        return choices.choose_id(run, self.sink_name.removeprefix(self.name).strip("-"))

    def _remember(self, session: Session, run: Run) -> None:
        folder = session.folder.path.absolute()
        self.standing.remember({"mode": session.run._mode.value, "directory": str(self._directory(run))})
        self.show_at(f"{folder} (`neptune sync` sends it)" if session.is_offline else session.run.get_url())

    def _describe(self, session: Session, run: Run) -> None:
        """Set the fields that say what the run is, unless they are there and the same."""
        fields, values = self._fields, self._description(run)
        digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
        is_there = session.held.sequence > 0 or bool(session.held.loose)
        if not is_there or self.standing.reference.get("described") != digest:
            session.assign({fields(name): value for name, value in values.items()})
            session.flush()
            self.standing.remember({"described": digest})

    def _description(self, run: Run) -> dict[str, Any]:
        values = origin(run)
        if self._log_parameters:
            others = run.arguments.keys() | (run.trial_parameters or {}).keys()
            values[self.trainer_parameters_key] = run.arguments
            values[self.model_parameters_key] = {
                name: value for name, value in run.parameters.items() if name not in others
            }
        if run.trial_name is not None:
            values[self.trial_name_key] = run.trial_name
            values[self.trial_params_key] = run.trial_parameters or {}
        return values

    def _open_session(self) -> Session:
        if self._session is None:
            raise TrackerError("NeptuneCallback is not open")
        return self._session

    # Records

    def recover(self) -> int | None:
        """Return 0 where the folder, or the server's run, is another than it was, or has lost records."""
        return 0 if self._open_session().held.sequence < self.standing.confirmed else None

    def write(self, records: Sequence[Record]) -> None:
        """Log numbers; texts stay in the journal."""
        self._open_session().add(records, self.flat_metrics)

    def confirmed(self) -> int:
        """Return the last record that is in the folder, or that the server has acknowledged."""
        return self._written if self._session is None else self._session.last_safe(self._written)

    def save_artifact(self, path: Path, record: Record) -> None:
        """Store a checkpoint as `log_checkpoints` says; other files below "artifacts"."""
        session, which = self._open_session(), self._log_checkpoints
        if record.kind is not Kind.CHECKPOINT:
            session.store(path, record, f"artifacts/{path.name}", replaces=False)
        elif which == "same":
            session.store(path, record, f"checkpoints/{path.name}", replaces=False)
        elif which == "last" or _is_best(path):
            session.store(path, record, f"checkpoints/{which}", replaces=True)

    def rewind(self, step: int) -> None:
        """Take points from `step` on back where the run is in files still; a server keeps them."""
        session = self._open_session()
        session.assign({self._fields("loopwright/rewound_to_step"): step})
        session.flush()
        if session.is_offline and self.given_object() is None:
            self.abandon()
            session.folder.drop_points(step, self._fields.base)
            self._session = self._begin()
        else:
            warn_once(logger, f"neptune: points from step {step} on can't be taken back from a run that is sent")

    # The end

    def close(self, status: Status) -> None:
        """End the run, unless it is the program's own; wait for a server to take what is left."""
        session = self._session
        if session is not None:
            session.end(status)
        self._session = self._made = None

    def abandon(self) -> None:
        """Let the run go; what is in its folder stays, and the next session goes on with it."""
        session, self._session = self._session, None
        if session is not None:
            session.drop()
            self._made = None


def _name_of(run: Run) -> str | None:
    """Return the run's name, unless it is the output directory by default."""
    has_name = run.name is not None and run.name != run.arguments.get("output_dir")
    return run.name if has_name else run.trial_name


def _is_best(checkpoint: Path) -> bool:
    """Return whether a checkpoint's own state says that it is the best so far."""
    from loopwright.checkpoint.rotation import is_best

    try:
        state: Mapping[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return is_best(checkpoint, state.get("best_model_checkpoint"))
