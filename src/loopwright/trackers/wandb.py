"""Report to Weights & Biases: a run on its server, or offline in files that `wandb sync` sends later.

A row of W&B's history is a step of the training. It carries the number of the newest record in it: so what W&B has got
is known after a crash, and nothing is sent twice. Which run it is, the first of these that there is:

    the program's own ─▶ the one remembered ─▶ WANDB_RUN_ID ─▶ one with the run's own id, made where there is none
"""

from __future__ import annotations

import atexit
import re
import shutil
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from loopwright._support.env import set_variables
from loopwright._support.extras import require_installed
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import TrackerError, describe
from loopwright.records import Kind, Record, Status
from loopwright.trackers import wandb_choices as choices
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.wandb_files import GLOBAL_STEP, Holdings
from loopwright.trackers.wandb_session import Session, begin, begun_here, tear_down

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState

logger: Logger = get_logger(__name__)

# The run's end is given up before the training gives up waiting for it: so the thread comes back, and the program ends.
_SHARE_OF_CLOSE_TIMEOUT = 0.75
_LEAVE_SECONDS = 5.0
# Histograms of a model cost more than its step; transformers logs them as rarely.
_LEAST_FREQUENCY = 100
_FINAL_MODEL = ".final-model-"


class WandbCallback(TrackerCallback):
    """A `TrainerCallback` that sends the logs, and models if asked to, to Weights & Biases.

    Environment:
        WANDB_LOG_MODEL: "end" stores the model at the end of training, "checkpoint" each checkpoint, "false", the
            default, neither. A yes, which is deprecated, means "end".
        WANDB_WATCH: "gradients", "parameters" or "all" logs histograms of them, "false", the default, nothing. The
            tracker then lives in the training process.
        WANDB_PROJECT: The project; by default the argument `project`, which is "huggingface" by default.
        WANDB_DISABLED: Whether to report nothing.
        WANDB_MODE: "online", "offline" or "disabled". By default online, or offline where there is no API key.
        WANDB_DIR: Where the directory `wandb` with local files is made; by default where the program was started.
        WANDB_RUN_ID: The run to go on with. Branches and trials have an id of their own.
        WANDB_RESUME: "must", "never" or "allow", the default: whether a run of WANDB_RUN_ID has to be there.
        WANDB_ENTITY, WANDB_BASE_URL, WANDB_RUN_GROUP, WANDB_TAGS, WANDB_NAME, WANDB_NOTES, WANDB_JOB_TYPE: As W&B
            documents them; the argument `run_name` goes before WANDB_NAME.
    """

    name: ClassVar[str] = "wandb"
    sdk_modules: ClassVar[tuple[str, ...]] = ("wandb", "wandb.proto.wandb_internal_pb2", "yaml")
    variables: ClassVar[tuple[str, ...]] = choices.VARIABLES
    ambient_module: ClassVar[str | None] = "wandb"
    stays_here: ClassVar[tuple[str, ...]] = ("_session", "_leaves_at_exit")

    _session: Session | None = None
    _resend_from: int | None = None
    _epoch: tuple[int, Any] = (-1, None)  # the newest, and its step
    _is_watching: bool = False
    _leaves_at_exit: bool = False

    def __init__(self) -> None:
        require_installed("wandb", extra="wandb", purpose="WandbCallback")

    @property
    def _wandb(self) -> Any:
        """The SDK, by the name that subclasses of transformers' callback use."""
        import wandb

        return wandb

    # What it says about itself

    def needs_training_process(self) -> str | None:
        """Return what WANDB_WATCH needs."""
        what = choices.what_to_watch(self.variable)
        return None if what is None else f"WANDB_WATCH={what} looks into the model"

    def why_off(self) -> str | None:
        """Return what switches it off."""
        if self.flag("WANDB_DISABLED"):
            return "WANDB_DISABLED says so"
        # A program that uses the SDK itself needs the run that does nothing.
        if self.variable("WANDB_MODE") == "disabled" and "wandb" not in sys.modules:
            return "WANDB_MODE is disabled"
        return None

    def wants_checkpoints(self) -> bool:
        """Return what WANDB_LOG_MODEL says."""
        return choices.when_to_store(self.variable) == "checkpoint"

    # The run

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Begin W&B's run, or go on with it or with the program's own."""
        self.abandon()
        run, users = self._run_to_show(), self._users_run()
        if users is not None:
            self._session = Session(users, is_users=True, counts_steps=False)
            users.config.update(choices.describe_run(run, self.variable)["config"], allow_val_change=True)
        else:
            self._session = self._begin(args)
        try:
            self._look_back(self._session)
            self._describe(self._session, args)
        except BaseException:
            self.abandon()
            raise

    def _users_run(self) -> Any:
        """Return the run that the program has begun, or None."""
        present = self._wandb.run if self._live is not None else None
        if present is not None and present.id in begun_here:
            tear_down()  # one of ours, whose thread hangs in it and was left behind
            return None
        return present

    def _open_session(self) -> Session:
        if self._session is None:
            raise TrackerError("WandbCallback is not open")
        return self._session

    def _begin(self, args: Any, **resume: Any) -> Session:
        run, wandb, reference = self._run_to_show(), self._wandb, self.standing.reference
        is_here = self._live is not None
        if not is_here:
            set_variables({"WANDB_SERVICE": ""})  # else the training's own wandb-core would be used
        directory = choices.choose_directory(run, self.variable, reference.get("directory"))
        own_id = choices.choose_id(run, self.variable, reference.get("id"))
        end_seconds = _SHARE_OF_CLOSE_TIMEOUT * float(getattr(args, "tracker_close_timeout", 60.0))
        arguments = choices.describe_run(run, self.variable) | {
            "id": own_id,
            "dir": str(directory),
            "mode": choices.choose_mode(wandb, self.variable, reference.get("mode")),
            # In the training process it is to be `wandb.run`; elsewhere there may be several at a time.
            "reinit": None if is_here else "create_new",
            "settings": choices.choose_settings(
                wandb, run, self.variable, is_in_training=is_here, end_seconds=end_seconds
            ),
            **(resume or {"resume": choices.choose_resume(self.variable, is_known="id" in reference)}),
        }
        opened = begin(choices.known_to_sdk(arguments), directory / "wandb", own_id)
        if is_here:
            self._leave_at_exit()
        self.standing.remember({"directory": str(directory)})
        return Session(opened, is_users=False, counts_steps=not is_here)

    def _look_back(self, session: Session) -> None:
        """Find out which records W&B has got, and remember what the next opening needs to know."""
        before, confirmed = self.standing.reference, self.standing.confirmed
        own_id, mode = str(session.run.id), str(session.run.settings.mode)
        is_same = before.get("mode") == mode
        held, step = session.look_back()
        if "id" not in before:
            held, step = 0, 0  # what is there another journal may have written
        elif before["id"] != own_id or mode == "disabled":
            held = confirmed
        elif is_same and self.standing.was_closed:
            held = max(held, confirmed)
        elif is_same and held < before["held"][0]:
            held, step = before["held"]  # files have been sent, and removed
        session.held = held
        self._resend_from = min(step, before.get("rewound_to", step)) if held < confirmed else None
        self.standing.remember({"id": own_id, "mode": mode, "held": [held, step]})
        self.show_at(session.run.url or f"{Path(session.run.dir).parent} (`wandb sync` sends it)")

    def _describe(self, session: Session, args: Any) -> None:
        run = session.run
        run.define_metric(GLOBAL_STEP)
        run.define_metric("*", step_metric=GLOBAL_STEP, step_sync=True)
        session.start_numbers()
        what, model = choices.what_to_watch(self.variable), self._live[2] if self._live is not None else None
        if what is not None and model is not None:
            watch(run, model, what, max(_LEAST_FREQUENCY, int(getattr(args, "logging_steps", None) or 0)))
            self._is_watching = True

    def recover(self) -> int | None:
        """Return the step after which W&B lacks records that it had confirmed; None where it has all."""
        return self._resend_from

    def rewind(self, step: int) -> None:
        """Let W&B forget the rows from `step` on, where it can: a run has to be opened anew for that."""
        session = self._open_session()
        if session.is_users:
            warn_once(logger, f"wandb: the program's own run keeps its points from step {step} on, beside the new ones")
            return
        self._unwatch(session.run)
        self.standing.remember({"rewound_to": min(step, self.standing.reference.get("rewound_to", step))})
        session.end(Status.STOPPED)
        number = Holdings.of(session.files()).number_before(step)
        self._session = None  # where it fails, the worker opens everything anew
        opened, is_rewound = self._begin_after(session, number)
        opened.look_back(rewound_to=number if is_rewound else None)
        opened.held = session.held
        self._session = opened
        self._describe(opened, self._live[0] if self._live is not None else None)

    def _begin_after(self, session: Session, number: int) -> tuple[Session, bool]:
        """Open the run after W&B's own step `number`, or after its last; return whether it is the former."""
        args = self._live[0] if self._live is not None else None
        if number >= 0:
            try:
                return self._begin(args, resume_from=f"{session.run.id}?_step={number}"), True
            except TrackerError as error:
                logger.debug("wandb: %s", error)
        opened = self._begin(args, resume="allow")
        warn_once(logger, "wandb: this server can't take points back, they stay beside the new ones")
        return opened, False

    # Records

    def write(self, records: Sequence[Record]) -> None:
        """Log points: a row for each step."""
        for record in records:
            if "epoch" in record.values:
                self._epoch = record.step, record.values["epoch"]
        self._open_session().add(records)

    def confirmed(self) -> int:
        """Return the last record that the run's local file holds."""
        return self._open_session().last_safe(self._written)

    def save_artifact(self, path: Path, record: Record) -> None:
        """Store the files as a version of the artifact "model-<name or id of the run>"."""
        session = self._open_session()
        if record.sequence <= session.held:
            return
        is_checkpoint = record.kind is Kind.CHECKPOINT
        artifact = self._wandb.Artifact(
            name=f"model-{self._artifact_name(session)}", type="model", metadata=self._metadata(session, record)
        )
        # Offline the files are copied: the checkpoint may be rotated out before `wandb sync`. Online it is waited for.
        artifact.add_dir(str(path), policy="mutable" if session.run.offline else "immutable")
        is_ours = path.name.startswith(_FINAL_MODEL)
        session.log_artifact(
            artifact,
            self._checkpoint_aliases(record) if is_checkpoint else ["final_model"] if is_ours else [],
            record.sequence,
            path if is_ours else None,
        )

    def _artifact_name(self, session: Session) -> str:
        run = self._run_to_show()
        has_name = run.name is not None and run.name != run.arguments.get("output_dir")
        return re.sub(r"[^A-Za-z0-9_.-]", "-", str(run.name if has_name else session.run.id))[:100]

    def _checkpoint_aliases(self, record: Record) -> list[str]:
        epoch = record.values.get("epoch", self._epoch[1] if self._epoch[0] == record.step else None)
        named = [] if epoch is None else [f"epoch_{round(epoch, 2)}"]
        return [*named, f"checkpoint_global_step_{record.step}"]

    @staticmethod
    def _metadata(session: Session, record: Record) -> dict[str, Any]:
        shown = {name: value for name, value in session.summary().items() if not name.startswith("_")}
        numbers = {name: value for name, value in shown.items() if isinstance(value, (int, float))}
        details = {name: value for name, value in record.values.items() if name != "path"}
        return numbers | details | {"step": record.step}

    # The end

    def close(self, status: Status) -> None:
        """End the run, unless it is the program's own."""
        session = self._session
        if session is not None:
            self._unwatch(session.run)
            session.end(status)
        self._session = None

    def abandon(self) -> None:
        """Let the run go; what it hasn't kept comes again."""
        session, self._session = self._session, None
        if session is not None:
            self._unwatch(session.run)
            session.drop()

    def _unwatch(self, run: Any) -> None:
        if self._is_watching:
            self._is_watching = False
            run._torch.unhook_all()

    # The training process

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the model for WANDB_LOG_MODEL=end; it is stored from there."""
        model = kwargs.get("model")
        is_wanted = choices.when_to_store(self.variable) == "end" and self.why_off() is None
        if self._reporting is not None and state.is_world_process_zero and is_wanted and model is not None:
            self._hand_over(model, args, state, kwargs.get("processing_class") or kwargs.get("tokenizer"))
        super().on_train_end(args, state, control, **kwargs)

    def _hand_over(self, model: Any, args: Any, state: TrainerState, processing_class: Any) -> None:
        from loopwright.checkpoint.weights import write_model

        recorder = self._reporting.recorder if self._reporting is not None else None
        if self._reporting is None or recorder is None or recorder.run is None:
            return
        name = f"{_FINAL_MODEL}{recorder.run.short_id}"
        directory = Path(args.output_dir) / (name if self.sink_name == self.name else f"{name}-{self.sink_name}")
        shutil.rmtree(directory, ignore_errors=True)
        write_model(model, directory, processing_class)
        details: dict[str, Any] = {"final_model": True}
        if args.load_best_model_at_end and state.best_metric is not None:
            details[f"eval/{args.metric_for_best_model}"] = state.best_metric
        self._reporting.note_artifact(directory, tracker=self.sink_name, **details)

    def _leave_at_exit(self) -> None:
        if not self._leaves_at_exit:
            self._leaves_at_exit = True
            atexit.register(_leave, weakref.ref(self))


def watch(run: Any, model: Any, what: str, frequency: int) -> None:
    """Let the SDK log histograms of the model; what it raises in there doesn't reach the training."""
    from loopwright.runtime.wrapping import unwrap_model

    run.watch(unwrap_model(model), log=what, log_freq=frequency)
    history = run._torch
    log_histogram = history.log_tensor_stats

    def log_tensor_stats(tensor: Any, name: str) -> None:
        try:
            log_histogram(tensor, name)
        except Exception as error:
            warn_once(logger, f"wandb: histograms can't be logged: {describe(error)}")

    history.log_tensor_stats = log_tensor_stats


def _leave(reference: weakref.ReferenceType[WandbCallback]) -> None:
    """End what is under way before the SDK itself does, and without waiting for a wandb-core that hangs."""
    tracker = reference()
    if tracker is None:
        return
    if tracker._reporting is not None:
        tracker._reporting.close()
    thread = threading.Thread(target=tear_down, name="leave-wandb", daemon=True)
    thread.start()
    thread.join(_LEAVE_SECONDS)
