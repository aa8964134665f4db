"""Report to DVCLive: files in a directory, which DVC versions, compares and plots.

A metric is a file of rows `step, value`; every call appends to it, so a kill loses nothing. What has to be taken back,
after a crash or where a resumed run contradicts what it had logged, is taken out of the files from a step on, and these
records come again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from loopwright._support.extras import require_installed
from loopwright._support.files import write_text_atomically
from loopwright._support.log import get_logger, warn_once
from loopwright.errors import ArgumentError, TrackerError
from loopwright.records import Kind, Record, Run, Status
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.naming import group_name, numbers

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState

logger = get_logger(__name__)

_LOG_MODEL = "HF_DVCLIVE_LOG_MODEL"
_FINAL_MODEL = ".dvclive-model"


class DVCLiveCallback(TrackerCallback):
    """A `TrainerCallback` that sends the logs to DVCLive.

    Arguments:
        live: A `dvclive.Live` to use; one is made if none is given. With one given, the tracker lives in the training
            process.
        log_model: Whether checkpoints are tracked by DVC: True, the model at the end of training (the best one with
            `load_best_model_at_end`); "all", every checkpoint as it is saved; False, none; None, what the variable
            says.
        kwargs: For `dvclive.Live`, where one is made: `dir`, `report`, `save_dvc_exp`, `dvcyaml`, …

    Environment:
        HF_DVCLIVE_LOG_MODEL: "true" or "1", "all", or "false", the default; see `log_model`.
    """

    name: ClassVar[str] = "dvclive"
    variables: ClassVar[tuple[str, ...]] = (_LOG_MODEL,)
    purges: ClassVar[bool] = True

    _is_gone: bool = False

    def __init__(self, live: Any = None, log_model: Literal["all"] | bool | None = None, **kwargs: Any) -> None:
        require_installed("dvclive", extra="dvclive", purpose="DVCLiveCallback")
        if live is not None and not hasattr(live, "log_metric"):
            raise ArgumentError(f"live={live!r}: expected a dvclive.Live, or None")
        if log_model not in ("all", True, False, None):
            raise ArgumentError(f"log_model={log_model!r}: expected 'all', True, False or None")
        self.live = live
        self._given = live
        self._log_model = log_model
        self._live_arguments = kwargs
        self._newest: dict[str, int] = {}  # the last step of each metric

    def constructor_arguments(self) -> dict[str, Any]:
        """Return what was given, without an object of the SDK."""
        return {"log_model": self._log_model, **self._live_arguments}

    def given_object(self) -> Any:
        """Return the `Live` that was handed over."""
        return self._given

    def needs_training_process(self) -> str | None:
        """Return which argument another process can't be told."""
        for name, value in self._live_arguments.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                return f"{name}={value!r} can't be told to another process"
        return None

    def wants_checkpoints(self) -> bool:
        """Return whether all are to be tracked."""
        return self._what_to_track() == "all"

    def _what_to_track(self) -> Literal["all"] | bool:
        if self._log_model is not None:
            return self._log_model
        text = (self.variable(_LOG_MODEL) or "").strip().lower()
        return "all" if text == "all" else self.flag(_LOG_MODEL)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "live"} | {"live": self._given}

    # The directory

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Open the directory; write the parameters."""
        run = self._run_to_show()
        self._newest = {}
        if self._given is None:
            self.live = self._open(run)
        elif self.live is None:
            self.live = self._given
        self.show_at(Path(self.live.dir).absolute())
        self.live.log_params(_plain(run.parameters))
        if run.parent_id is not None:
            self.live.log_param("parent", f"run {run.parent_id}, step {run.parent_step}")

    def _open(self, run: Run) -> Any:
        from dvclive import Live

        known = self.standing.reference.get("dir")
        directory = Path(known) if known is not None else self._choose_directory(run)
        is_there = _holds_metrics(directory)
        self._is_gone = not self.standing.is_new and not is_there
        if known is not None and not self.standing.was_closed and self.standing.next_step is not None:
            drop_rows(directory, self.standing.next_step)
        # Without `resume` it removes what the directory holds: in a DVC repository that is an earlier run's, versioned.
        live = Live(**{**self._live_arguments, "dir": str(directory), "resume": known is not None and is_there})
        self.standing.remember({"dir": str(directory)})
        return live

    def _choose_directory(self, run: Run) -> Path:
        """Return the directory that was asked for; one beside it, where an earlier run's would be lost."""
        directory = Path(self._live_arguments.get("dir", "dvclive")).expanduser().absolute()
        if run.trial_name is not None:
            return directory.with_name(f"{directory.name}_{run.trial_name}")
        if _holds_metrics(directory) and not _is_versioned(directory):
            return directory.with_name(f"{directory.name}_{run.short_id}")
        return directory

    def recover(self) -> int | None:
        """Return 0 where somebody has deleted the files: all comes again."""
        return 0 if self._is_gone else None

    # Records

    def write(self, records: Sequence[Record]) -> None:
        """Append a row for each step to each metric's file, and bring summary and report up to date."""
        steps: dict[int, dict[str, float]] = {}
        for record in records:
            values = {group_name(name): _as_number(value) for name, value in numbers(record.values)}
            steps.setdefault(record.step, {}).update(values)
        for step, values in steps.items():
            self.live.step = step
            for name, value in values.items():
                self._log(name, step, value)
        self.live.sync()

    def _log(self, name: str, step: int, value: float) -> None:
        path = Path(self.live.plots_dir) / "metrics" / f"{name}.tsv"
        if self._newest.get(name, step) == step and path.exists():  # said twice of one step: the newer one counts
            drop_rows_of(path, step, step)
        self._newest[name] = step
        self.live.log_metric(name, value)

    def rewind(self, step: int) -> None:
        """Take the rows from `step` on out of the files."""
        drop_rows(Path(self.live.dir), step)
        self._newest = {}

    def save_artifact(self, path: Path, record: Record) -> None:
        """Let DVC track a checkpoint, or the model at the end."""
        if self.live._dvc_repo is None:
            warn_once(logger, f"dvclive: no model is tracked, as {Path.cwd()} is in no DVC repository (`dvc init`)")
        elif record.kind is Kind.CHECKPOINT:
            self.live.log_artifact(str(path))
        else:
            self.live.log_artifact(str(path), name=record.values["name"], type="model", copy=True)
            shutil.rmtree(path)

    # The end

    def close(self, status: Status) -> None:
        """Write summary and report for the last time, and save the DVC experiment, where there is to be one."""
        live, self.live = self.live, self._given
        if live is not None:
            live.end()

    def abandon(self) -> None:
        """Let go; it holds no file open."""
        self.live = self._given

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the model where it is to be tracked; DVC gets it from there."""
        model = kwargs.get("model")
        is_wanted = self._what_to_track() is True and state.is_world_process_zero
        if is_wanted and model is not None and self._reporting is not None:
            from loopwright.checkpoint.weights import write_model

            name = "best" if args.load_best_model_at_end else "last"
            directory = Path(args.output_dir) / _FINAL_MODEL / name
            write_model(model, directory, kwargs.get("processing_class"))
            self._reporting.note_artifact(directory, tracker=self.sink_name, name=name)
        super().on_train_end(args, state, control, **kwargs)


def drop_rows(directory: Path, step: int) -> None:
    """Take the rows of `step` and later out of all metrics' files in DVCLive's `directory`, and what a kill tore."""
    for path in sorted((directory / "plots" / "metrics").rglob("*.tsv")):
        drop_rows_of(path, step)


def drop_rows_of(path: Path, first: int, last: int | None = None) -> None:
    """Take the rows of the steps from `first` to `last`, and a torn last one, out of one file.

    Arguments:
        path: The file.
        first: The first step.
        last: The last step; None for all that follow.

    Raises:
        TrackerError: it is no file of DVCLive's.
    """
    header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    columns = header.rstrip("\n").split("\t")
    if "step" not in columns:
        raise TrackerError(f"{path} is no metric of DVCLive's: its first line is {header!r}")
    place = columns.index("step")
    whole = [row for row in rows if row.endswith("\n") and row.count("\t") == len(columns) - 1]
    kept = [row for row in whole if not _is_between(first, int(row.rstrip("\n").split("\t")[place]), last)]
    if kept != rows:
        write_text_atomically(path, "".join([header, *kept]))


def _is_between(first: int, step: int, last: int | None) -> bool:
    return first <= step and (last is None or step <= last)


def _holds_metrics(directory: Path) -> bool:
    return any((directory / "plots" / "metrics").rglob("*.tsv")) or (directory / "metrics.json").exists()


def _is_versioned(directory: Path) -> bool:
    return any((parent / ".dvc").is_dir() for parent in directory.parents)


def _as_number(value: float) -> float:
    return int(value) if isinstance(value, bool) else value


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` as YAML takes them, whatever their types."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain
