"""Report to DVCLive: a directory of plain files, which DVC reads.

DVCLive only appends to its files. After a crash, or where a resumed run contradicts what it had logged, the rows of the
steps that come again are taken out first; within a step a metric has one row, its last.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from loopwright._support.env import parse_flag, read_text
from loopwright._support.extras import require_installed
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.arguments.choices import suggest
from loopwright.errors import ArgumentError, TrackerError
from loopwright.records import Kind, Record, Run, Status
from loopwright.trackers import dvclive_files as files
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.description import origin
from loopwright.trackers.naming import numbers

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState

logger: Logger = get_logger(__name__)

_LIVE_ARGUMENTS = (
    "dir",
    "resume",
    "report",
    "save_dvc_exp",
    "dvcyaml",
    "cache_images",
    "exp_name",
    "exp_message",
    "monitor_system",
)
_REPORTS = (None, "html", "md", "notebook")
_ALL_STEPS = float("inf")
# A report reads all files again: it is made so often at most, and takes a twentieth of the time at most.
_SHOW_SECONDS = 5.0
_SHOW_SHARE = 20


class DVCLiveCallback(TrackerCallback):
    """A `TrainerCallback` that sends the logs, and models if asked to, to DVCLive.

    Arguments:
        live: A `dvclive.Live` to use, in the training process; one is made of `kwargs` if none is given.
        log_model: True: the final model is logged as the artifact "last", or "best" with `load_best_model_at_end`.
            "all": every checkpoint is logged. None: as HF_DVCLIVE_LOG_MODEL says.
        kwargs: Arguments of `dvclive.Live`, such as `dir="dvclive"`, `report="html"`, `save_dvc_exp=False`.

    Environment:
        HF_DVCLIVE_LOG_MODEL: "all", or yes or no; see `log_model`.

    Raises:
        ArgumentError: `log_model` or one of `kwargs` is none of those.
        TrackerError: `live` is no `dvclive.Live`.
    """

    name: ClassVar[str] = "dvclive"
    sdk_modules: ClassVar[tuple[str, ...]] = ("dvclive", "dvc.repo")
    variables: ClassVar[tuple[str, ...]] = ("HF_DVCLIVE_LOG_MODEL",)
    purges: ClassVar[bool] = True
    stays_here: ClassVar[tuple[str, ...]] = ("_files", "_names", "_rows", "live", "_given")

    live: Any = None
    _given: Any = None
    _files: files.MetricFiles | None = None
    _names: dict[str, str]  # as they are logged -> as DVCLive gets them
    _rows: dict[str, files.Row]  # the newest of each
    _show_at: float = 0.0

    def __init__(self, live: Any = None, log_model: Literal["all"] | bool | None = None, **kwargs: Any) -> None:
        require_installed("dvclive", extra="dvclive", purpose="DVCLiveCallback")
        if live is not None and not _is_live(live):
            raise TrackerError(f"live={live!r}: expected a dvclive.Live, found a {type(live).__name__}")
        if log_model not in (None, True, False, "all"):
            raise ArgumentError(f"log_model={log_model!r}: expected True, False, 'all' or None")
        _check_live_arguments(kwargs)
        self.live = self._given = live
        self._asked_to_log = log_model
        self._kwargs = {name: os.fspath(one) if isinstance(one, os.PathLike) else one for name, one in kwargs.items()}

    # What it says about itself

    def constructor_arguments(self) -> dict[str, Any]:
        """Return what another process can be told."""
        kwargs = {name: value for name, value in self._kwargs.items() if _is_plain(value)}
        return {"log_model": self._asked_to_log, **kwargs}

    def given_object(self) -> Any:
        """Return the `Live` that was handed over."""
        return self._given

    def needs_training_process(self) -> str | None:
        """Return which argument can't leave it."""
        if self._kwargs.get("report") == "notebook":
            return "the notebook that shows the report is here"
        strange = [name for name, value in self._kwargs.items() if not _is_plain(value)]
        return f"{', '.join(strange)} can't be handed to another process" if strange else None

    def wants_checkpoints(self) -> bool:
        """Return whether every checkpoint is to be logged."""
        return self._what_to_log() == "all"

    def _what_to_log(self) -> Literal["all"] | bool:
        if self._asked_to_log is not None:
            return self._asked_to_log
        text = self.variable("HF_DVCLIVE_LOG_MODEL", "") or ""
        if text.strip().lower() == "all":
            return "all"
        try:
            return parse_flag("HF_DVCLIVE_LOG_MODEL", text)
        except ArgumentError as error:
            warn_once(logger, f"{error}, or all; no model is logged")
            return False

    # The run

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Open the directory, take back what comes again, and log parameters."""
        run, reference = self._run_to_show(), self.standing.reference
        self._names = dict(reference.get("names", {}))
        directory = self._choose_directory(run)
        self._files = files.MetricFiles(directory)
        self._note_deletion()
        files.claim_directory(directory, run.id, shares=True)
        if self.live is None:
            files.remove_damaged(directory)
            self.live = self._make_live(directory)
        self._take_back(0 if self._must_resend else None if self.standing.was_closed else self.standing.next_step)
        self.live.log_params(files.plain_parameters(run.parameters) | {"loopwright": _describe(run, Status.RUNNING)})

    def _note_deletion(self) -> None:
        """Find out whether files were deleted: then all comes again."""
        self.settle_at({}, has_lost=not self._open_files().are_there(self._names.values()))

    def _open_files(self) -> files.MetricFiles:
        if self._files is None:
            raise TrackerError("DVCLiveCallback is not open")
        return self._files

    def _open_live(self) -> Any:
        if self.live is None:
            raise TrackerError("DVCLiveCallback is not open")
        return self.live

    def _choose_directory(self, run: Run) -> Path:
        """Return the directory, the same as before whatever directory this process is in."""
        before = self.standing.reference.get("directory")
        if self._given is not None:
            directory = Path(self._given.dir).absolute()
        elif before is not None:
            directory = Path(before)
        else:
            wanted = Path(self._kwargs.get("dir", "dvclive")).absolute()
            directory = files.claim_directory(wanted, run.id, shares=bool(self._kwargs.get("resume")))
        is_given = self._given is not None or bool(self.standing.reference.get("is_given"))
        self.standing.remember({"directory": str(directory), "is_given": is_given})
        self.show_at(directory)
        return directory

    def _make_live(self, directory: Path) -> Any:
        from dvclive import Live

        base, reference = self._base_directory(), self.standing.reference
        wanted: dict[str, Any] = {
            # Outside of Git DVCLive would warn that it can't.
            "save_dvc_exp": files.find_repository(base, ".git") is not None,
            "dvcyaml": "dvc.yaml",
            **self._kwargs,
        }
        if reference.get("is_given"):  # what is left of one that the program had made, and not as ours
            wanted |= {"save_dvc_exp": False, "dvcyaml": False}
        if wanted["dvcyaml"]:
            wanted["dvcyaml"] = str(base / ("dvc.yaml" if wanted["dvcyaml"] is True else wanted["dvcyaml"]))
        # Without `resume` it would delete what is there.
        live = Live(**{**wanted, "dir": str(directory), "resume": True})
        if wanted["save_dvc_exp"]:
            self._keep_experiment(live)
        for name in reference.get("models", ()):  # else its dvc.yaml would forget them
            if (model := Path(live.artifacts_dir) / name).exists():
                live.log_artifact(model, name=name, type="model", cache=False)
        return live

    def _base_directory(self) -> Path:
        """Return the directory that the training was begun in: DVC's repository is the one around it.

        Raises:
            TrackerError: DVCLive would find another repository from here.
        """
        here = Path.cwd()
        around = files.find_repository(here, ".dvc") or files.find_repository(here, ".git")
        before = self.standing.reference.get("base")
        if before is None:
            self.standing.remember({"base": [str(here), around and str(around)]})
            return here
        base, repository = before
        if base != str(here) and repository != (around and str(around)):
            raise TrackerError(f"DVCLive takes the repository around the current directory: deliver from {base}")
        return Path(base)

    def _keep_experiment(self, live: Any) -> None:
        """Let all sessions of the run save one experiment, each in place of the one before."""
        before = self.standing.reference.get("experiment")
        if before is None:
            self.standing.remember({"experiment": getattr(live, "_exp_name", None)})
        else:
            live._exp_name = before

    def _take_back(self, from_step: float | None) -> None:
        """Take back what was written from a step on, and what a kill has cut off."""
        held = self._open_files()
        for name in self._names.values():
            held.take_back(name, _ALL_STEPS if from_step is None else from_step)
        newest = {name: held.newest(name) for name in self._names.values()}
        live = self._open_live()
        live.summary = files.put_right(live.summary, newest)
        live.make_summary()
        self._rows = {name: row for name, row in newest.items() if row is not None}
        self._names = {name: fitting for name, fitting in self._names.items() if fitting in self._rows}
        self.standing.remember({"names": self._names})

    # Records

    def write(self, records: Sequence[Record]) -> None:
        """Log numbers: DVCLive writes each to its file at once."""
        live = self._open_live()
        self._check_files(list(self._rows))
        lines = [(record.step, dict(numbers(record.values))) for record in records]
        self._name_all([name for _, line in lines for name in line])
        for step, line in lines:
            live.step = step
            for name, value in line.items():
                self._log(live, self._names[name], files.as_dvclive_keeps(value), step)
        live.make_summary()
        self._check_files()
        self._show(live)

    def _check_files(self, names: Sequence[str] = ()) -> None:
        """Raise where files have been deleted meanwhile: it is opened anew then, and all comes again."""
        if not self._open_files().are_there(names):
            raise TrackerError("DVCLive's files were deleted; they are written anew")

    def _name_all(self, logged: Sequence[str]) -> None:
        """Give new metrics their names in DVCLive, and remember them before there are files."""
        from dvclive.utils import standardize_metric_name

        fresh = [name for name in dict.fromkeys(logged) if name not in self._names]
        for name in fresh:
            wanted = standardize_metric_name(name, "dvclive.huggingface")
            self._names[name] = fitting = files.fit_name(wanted, self._names.values())
            if fitting != wanted:
                warn_once(logger, f"dvclive can't take every name: {wanted!r} is {fitting!r} there")
        if fresh:
            self.standing.remember({"names": self._names})

    def _log(self, live: Any, name: str, value: float | str, step: int) -> None:
        held = self._open_files()
        newest, row = self._rows.get(name) or held.newest(name), files.Row(step, str(value))
        if newest == row:
            return
        if newest is not None and step <= newest.step:
            held.remove(name, step)
        live.log_metric(name, value)
        self._rows[name] = row if newest is None else max(newest, row, key=lambda one: one.step)

    def _show(self, live: Any) -> None:
        """Bring report, dvc.yaml and Studio up to date, now and then."""
        began = time.monotonic()
        if began >= self._show_at:
            live.sync()
            took = time.monotonic() - began
            self._show_at = began + max(_SHOW_SECONDS, _SHOW_SHARE * took)

    def rewind(self, step: int) -> None:
        """Take back the rows from `step` on."""
        self._take_back(step)

    # Models

    def save_artifact(self, path: Path, record: Record) -> None:
        """Let DVC track a copy: to track the files themselves it would move them to its cache."""
        live = self._open_live()
        if files.find_repository(self._base_directory(), ".dvc") is None:
            warn_once(logger, "dvclive: models are logged in a DVC repository alone (git init, dvc init): left out")
            return
        if record.kind is Kind.ARTIFACT and "model" in record.values:
            live.log_artifact(path, copy=True, name=path.name, type="model")
            self.standing.remember({"models": [path.name]})
        else:
            live.log_artifact(path, copy=True)
        kept = Path(live.artifacts_dir) / path.name
        if not kept.with_name(f"{path.name}.dvc").exists() and read_text("DVC_ROOT") is None:
            logger.warning("dvclive: DVC does not track %s, as it said before", kept)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the final model for `log_model=True`; it is logged from there."""
        model = kwargs.get("model")
        is_ours = self._reporting is not None and state.is_world_process_zero
        if is_ours and self._what_to_log() is True and model is not None:
            self._hand_over(model, args, kwargs.get("processing_class") or kwargs.get("tokenizer"))
        super().on_train_end(args, state, control, **kwargs)

    def _hand_over(self, model: Any, args: Any, processing_class: Any) -> None:
        from loopwright.checkpoint.weights import write_model

        if self._reporting is None or self._reporting.recorder is None:
            return
        name = "best" if args.load_best_model_at_end else "last"
        directory = Path(args.output_dir) / name
        shutil.rmtree(directory, ignore_errors=True)
        write_model(model, directory, processing_class)
        self._reporting.note_artifact(directory, tracker=self.sink_name, model=True)

    # The end

    def close(self, status: Status) -> None:
        """End DVCLive's session, the program's own too: an experiment is saved, where one is wanted."""
        live = self.live
        if live is None:
            return
        live.log_params({"loopwright": _describe(self._run_to_show(), status)})
        files.leave_copies_to_dvc(live)
        live.end()
        self.live = self._given

    def abandon(self) -> None:
        """Let go; nothing is held open but a monitor of the system, where one is wanted."""
        live, self.live = self.live, self._given
        monitor = getattr(live, "_system_monitor", None)
        if monitor is not None and self._given is None:
            monitor.end()


def _is_live(found: Any) -> bool:
    # Nobody can have made one without the module.
    module = sys.modules.get("dvclive")
    return module is not None and isinstance(found, module.Live)


def _check_live_arguments(kwargs: dict[str, Any]) -> None:
    known = ", ".join(_LIVE_ARGUMENTS)
    for name, value in kwargs.items():
        if name not in _LIVE_ARGUMENTS:
            hint = suggest(name, _LIVE_ARGUMENTS)
            raise ArgumentError(f"{name}={value!r}: dvclive.Live has no such argument; known: {known}{hint}")
    report, dvcyaml = kwargs.get("report"), kwargs.get("dvcyaml")
    if report not in _REPORTS:
        raise ArgumentError(f"report={report!r}: expected one of {', '.join(map(repr, _REPORTS))}")
    if isinstance(dvcyaml, str | os.PathLike) and Path(dvcyaml).name != "dvc.yaml":
        raise ArgumentError(f"dvcyaml={dvcyaml!r}: expected False, or a path that ends in dvc.yaml")


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _describe(run: Run, status: Status) -> dict[str, Any]:
    trial = {} if run.trial_name is None else {"trial": run.trial_name}
    return {**origin(run, ""), **trial, "status": str(status)}
