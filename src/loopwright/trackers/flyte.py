"""Report to Flyte: checkpoints to the task's own, and a deck with the log history.

A Flyte task knows itself by context variables of the thread that it runs on. So this tracker lives in the training
process, whose thread it asks when training begins; checkpoints are copied on a thread of its own, in a copy of that
context. In the task's checkpoint they lie side by side, each in a folder of its own:

    <task's checkpoint>/checkpoint-40/
    <task's checkpoint>/checkpoint-60/
    <task's checkpoint>/loopwright_attempt.json

An interruption in the middle of a copy then leaves the one before whole, and
`train(resume_from_checkpoint=cp.restore())` takes the newest that is. The file beside them says that they are an
attempt's, so that after one that left none the next begins anew. An attempt is handed what the one before it left, and
no more: so the checkpoint that it goes on from is the first that it copies.
"""

from __future__ import annotations

import contextvars
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from loopwright._support.extras import is_installed, require_installed
from loopwright._support.files import link_or_copy
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.checkpoint.layout import ATTEMPT_NAME, MANIFEST_NAME, step_of
from loopwright.errors import TrackerError, describe
from loopwright.records import Record
from loopwright.trackers.base import TrackerCallback

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState

logger: Logger = get_logger(__name__)

DECK_NAME = "Log History"
_OUTSIDE = "the program is in no Flyte task"
_KEPT = 2  # the newest copy may be cut in half


class FlyteCallback(TrackerCallback):
    """A `TrainerCallback` that sends the logs to Flyte. It works within a Flyte task alone.

    Arguments:
        save_log_history: Whether the log history becomes a Flyte Deck, a plot and a table, when training ends.
        sync_checkpoints: Whether checkpoints are copied to the task's own, to go on from after an interruption.

    Example:
        ```python
        @task(retries=3, interruptible=True, enable_deck=True)
        def train() -> None:
            cp = current_context().checkpoint
            trainer = Trainer(..., callbacks=[FlyteCallback()])
            trainer.train(resume_from_checkpoint=cp.restore())
        ```
    """

    name: ClassVar[str] = "flyte"
    sdk_modules: ClassVar[tuple[str, ...]] = ("flytekit",)
    stays_here: ClassVar[tuple[str, ...]] = ("_context", "cp")

    cp: Any = None  # the task's checkpoint
    _context: contextvars.Context | None = None

    def __init__(self, save_log_history: bool = True, sync_checkpoints: bool = True) -> None:
        require_installed("flytekit", extra="flyte", purpose="FlyteCallback")
        self.save_log_history = save_log_history
        self.sync_checkpoints = sync_checkpoints

    def constructor_arguments(self) -> dict[str, Any]:
        """Return both flags."""
        return {"save_log_history": self.save_log_history, "sync_checkpoints": self.sync_checkpoints}

    # What it says about itself, asked on the thread that trains

    def why_off(self) -> str | None:
        """Return why, outside of a task; else take hold of the task's context."""
        if "flytekit" not in sys.modules:
            return _OUTSIDE
        from flytekit import current_context

        try:
            self.cp = current_context().checkpoint
        except Exception as error:  # of several kinds, by how the program was started
            logger.debug("flytekit: %s", describe(error))
            return _OUTSIDE
        self._context = contextvars.copy_context()
        return None

    def needs_training_process(self) -> str | None:
        """Return what binds it."""
        return "a Flyte task is known on its own thread alone"

    def wants_checkpoints(self) -> bool:
        """Return whether they are copied."""
        return self.sync_checkpoints

    # Checkpoints

    def setup(self, args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        """Say where checkpoints go."""
        if self.sync_checkpoints:
            self._task().run(self._say_whose)
        self.show_at(self._destination() if self.sync_checkpoints else f'the deck "{DECK_NAME}"')

    def write(self, records: Sequence[Record]) -> None:
        """Take nothing: the deck is made of the whole history."""

    def save_artifact(self, path: Path, record: Record) -> None:
        """Copy a checkpoint, and let those go that are older than the one before."""
        self._task().run(self._copy, path)

    def _task(self) -> contextvars.Context:
        if self._context is None:
            raise TrackerError(
                "a task's checkpoint is known within the task alone: a training that goes on there copies it"
            )
        return self._context

    def _say_whose(self) -> None:
        """Let the next attempt know what it finds, and that it may find no checkpoint."""
        with tempfile.TemporaryDirectory(prefix="flyte-") as above:
            (Path(above) / ATTEMPT_NAME).write_text(json.dumps({"run": self._run_to_show().id}) + "\n")
            self.cp.save(Path(above))

    def _copy(self, path: Path) -> None:
        """Copy a checkpoint as a folder in the task's checkpoint: the SDK copies what a folder holds, in any order."""
        with tempfile.TemporaryDirectory(prefix="flyte-", dir=path.parent) as above:
            first, whole = (Path(above) / part / path.name for part in ("first", "whole"))
            if (path / MANIFEST_NAME).exists():  # by it a copy that is cut short is known as one
                first.mkdir(parents=True)
                link_or_copy(path / MANIFEST_NAME, first / MANIFEST_NAME)
                self.cp.save(first.parent)
            shutil.copytree(path, whole, copy_function=link_or_copy)
            self.cp.save(whole.parent)
        self._let_older_ones_go()

    def _let_older_ones_go(self) -> None:
        from flytekit import FlyteContextManager

        destination = self._destination()
        try:
            files = FlyteContextManager.current_context().file_access.get_filesystem_for_path(destination)
            names = {Path(str(path).rstrip("/")).name: path for path in files.ls(destination, detail=False)}
            steps = {name: step for name in names if (step := step_of(Path(name))) is not None}
            for name in sorted(steps, key=lambda name: steps[name])[:-_KEPT]:
                files.rm(names[name], recursive=True)
        except Exception as error:  # what is there too much harms nobody
            logger.debug("flyte: older checkpoints stay in %s: %s", destination, describe(error))

    def _destination(self) -> str:
        return str(self.cp._checkpoint_dest)

    # The deck

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the deck, on the thread that the task runs on."""
        if self.save_log_history and self._context is not None and state.is_world_process_zero:
            if is_installed("pandas") and is_installed("matplotlib"):
                self._make_deck(state.log_history)
            else:
                later = 'pip install "loopwright[flyte]"'
                warn_once(logger, f"flyte: the deck needs pandas and matplotlib ({later}); there is none")
        super().on_train_end(args, state, control, **kwargs)

    @staticmethod
    def _make_deck(history: Sequence[dict[str, Any]]) -> None:
        from flytekit import Deck

        from loopwright.trackers.flyte_deck import render

        try:
            Deck(DECK_NAME, render(history))
        except Exception as error:
            warn_once(logger, f"flyte: the deck can't be made: {describe(error)}")
