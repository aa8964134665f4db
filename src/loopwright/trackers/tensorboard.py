"""Report to TensorBoard: event files in a directory.

Points are written with their step and their own wall time. After a crash, or where a resumed run contradicts what it
had logged, the directory is opened with `purge_step`: readers then leave out what was written from that step on, and
these records come again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from loopwright._support.extras import require_installed
from loopwright.records import Record, Run, Status
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.naming import group_name, numbers


class TensorBoardCallback(TrackerCallback):
    """A `TrainerCallback` that sends the logs to TensorBoard.

    Arguments:
        tb_writer: A `SummaryWriter` to use; one is made if none is given. With one given, the tracker lives in the
            training process.

    Environment:
        TENSORBOARD_LOGGING_DIR: Where the event files go, unless `args.logging_dir` says so. By default
            `<output_dir>/runs/<time>_<host>`. A trial of a hyper-parameter search has a directory of its own in it.
    """

    name: ClassVar[str] = "tensorboard"
    sdk_modules: ClassVar[tuple[str, ...]] = ("torch.utils.tensorboard",)
    variables: ClassVar[tuple[str, ...]] = ("TENSORBOARD_LOGGING_DIR",)
    purges: ClassVar[bool] = True

    def __init__(self, tb_writer: Any = None) -> None:
        require_installed("tensorboard", extra="tensorboard", purpose="TensorBoardCallback")
        self.tb_writer: Any = tb_writer
        self._given = tb_writer

    def given_object(self) -> Any:
        """Return the writer that was handed over."""
        return self._given

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Open the event files; write arguments and parameters where the run is new."""
        run = self._run_to_show()
        if self.tb_writer is None:
            self.tb_writer = self._make_writer(run, args)
        self.show_at(self.tb_writer.log_dir)
        if self._must_resend or "described" not in self.standing.reference:
            self._describe(run)
            self.tb_writer.flush()
            self.standing.remember({"described": True})

    def _make_writer(self, run: Run, args: Any) -> Any:
        directory = self.standing.reference.get("log_dir")
        if directory is None:
            directory = str(self._choose_directory(run, args))
            self.standing.remember({"log_dir": directory})
        self.settle_at({}, has_lost=not _holds_events(Path(directory)))  # where somebody has deleted the event files
        purge_step = self.standing.next_step if not self.standing.was_closed else None
        return _summary_writer(directory, purge_step)

    def _choose_directory(self, run: Run, args: Any) -> Path:
        wanted = getattr(args, "logging_dir", None) or self.variable("TENSORBOARD_LOGGING_DIR")
        if wanted is None:
            moment = time.strftime("%b%d_%H-%M-%S", time.localtime(run.created_at))
            wanted = str(Path(run.output_dir) / "runs" / f"{moment}_{os.uname().nodename}")
        directory = Path(wanted)
        if run.trial_name is not None:
            directory /= run.trial_name
        # Two runs in one directory would be one curve; a branch stands beside its parent.
        if _holds_events(directory):
            directory = directory.with_name(f"{directory.name}_{run.short_id}")
        return directory.resolve()

    def _describe(self, run: Run) -> None:
        writer = self.tb_writer
        writer.add_text("args", _as_text(run.arguments), walltime=run.created_at)
        if run.parameters.keys() - run.arguments.keys():
            described = {name: value for name, value in run.parameters.items() if name not in run.arguments}
            writer.add_text("model_config", _as_text(described), walltime=run.created_at)
        if run.search_id is not None:
            writer.add_text("search", f"a trial of search {run.search_id}", walltime=run.created_at)
        elif run.parent_id is not None:
            writer.add_text(
                "parent", f"branched off run {run.parent_id} at step {run.parent_step}", walltime=run.created_at
            )
        if hasattr(writer, "add_hparams"):
            values = {**run.arguments, **(run.trial_parameters or {})}
            plain = {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str))}
            writer.add_hparams(plain, metric_dict={}, run_name=".")

    def write(self, records: Sequence[Record]) -> None:
        """Write scalars and texts, and flush: what is in the file is safe from a kill."""
        writer = self.tb_writer
        for record in records:
            for name, value in numbers(record.values):
                writer.add_scalar(group_name(name), value, record.step, walltime=record.time)
            for name, value in record.values.items():
                if isinstance(value, str):
                    writer.add_text(group_name(name), value, record.step, walltime=record.time)
        writer.flush()

    def rewind(self, step: int) -> None:
        """Let readers leave out what was written from `step` on."""
        if self._given is not None:
            return  # the writer is the user's, and goes on
        directory = self.standing.reference.get("log_dir") or self.tb_writer.log_dir
        self.tb_writer.close()
        self.tb_writer = _summary_writer(directory, step)
        self.tb_writer.flush()

    def close(self, status: Status) -> None:
        """Close the files, but for a writer that is the user's."""
        if self._given is None:
            self.tb_writer.close()
            self.tb_writer = None
        else:
            self.tb_writer.flush()

    def abandon(self) -> None:
        """Close the files, so that nothing more gets into them."""
        writer, self.tb_writer = self.tb_writer, self._given
        if writer is not None and self._given is None:
            writer.close()


def _summary_writer(directory: str, purge_step: int | None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # Made now, by name: SummaryWriter itself makes it only with the first event.
    Path(directory).mkdir(parents=True, exist_ok=True)
    _wait_for_another_second(Path(directory))
    return SummaryWriter(directory, purge_step=purge_step)


def _wait_for_another_second(directory: Path) -> None:
    """See to it that the next event file comes after those that are there: readers take them by name.

    The name holds a second, then process and count as text, so that the tenth comes before the ninth.
    """
    taken = {path.name.split(".")[3] for path in directory.glob("events.out.tfevents.*")}
    while str(int(time.time())) in taken:
        time.sleep(0.05)


def _holds_events(directory: Path) -> bool:
    return directory.is_dir() and any(directory.glob("events.out.tfevents.*"))


def _as_text(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, default=str)
