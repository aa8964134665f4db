"""Show progress bars, in a terminal or a notebook, and write log lines above them.

A terminal may go away in the middle of a run (a closed window, `| head`, a lost connection). The callback then falls
silent until the next training; the run goes on.
"""

from __future__ import annotations

import math
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from loopwright._support.log import Logger, get_logger
from loopwright.callbacks.base import TrainerCallback
from loopwright.callbacks.printer import readable, write_line

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState

logger: Logger = get_logger(__name__)

# What writing to a stream raises that is closed (ValueError) or has nobody at its other end (OSError).
_TERMINAL_GONE = (OSError, ValueError)


class ProgressCallback(TrainerCallback):
    """Shows a bar for training and one for each evaluation, and writes log lines above them.

    Only the first process of all shows anything. A training resumed from a checkpoint begins at the checkpoint's
    step; an evaluation whose dataloader has no length has no bar.

    Arguments:
        max_str_len: Characters of a string in a log line that are shown.

    Attributes:
        training_bar: The bar of the training under way, or None.
        prediction_bar: The bar of the evaluation or prediction under way, or None.
    """

    def __init__(self, max_str_len: int = 100) -> None:
        self.max_str_len = max_str_len
        self.training_bar: Any = None
        self.prediction_bar: Any = None
        self._is_silent = False

    def __getstate__(self) -> dict[str, Any]:
        # A bar belongs to this process's terminal: it is neither pickled nor copied.
        return {**self.__dict__, "training_bar": None, "prediction_bar": None}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar at the step where training begins."""
        self._close_all()  # those of a run that ended by an exception and, elsewhere, was not told so
        self._is_silent = False
        if state.is_world_process_zero:
            with self._surviving():
                self.training_bar = _open_bar(total=state.max_steps, initial=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the training bar on."""
        bar = self.training_bar
        if bar is not None:
            try:
                bar.update(state.global_step - bar.n)
            except _TERMINAL_GONE as error:
                self._fall_silent(error)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Move the evaluation's bar on, opening it at the first batch."""
        if self._is_silent or not state.is_world_process_zero:
            return
        try:
            bar = self.prediction_bar
            if bar is None or bar.n >= bar.total:  # a full one is left over from an evaluation that was broken off
                bar = self._open_prediction_bar(eval_dataloader)
            if bar is not None:
                bar.update(1)
        except _TERMINAL_GONE as error:
            self._fall_silent(error)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the evaluation's bar."""
        self._close("prediction_bar")

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Close the prediction's bar."""
        self._close("prediction_bar")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the log line above the bar, long strings cut short."""
        bar = self.training_bar
        if bar is None or logs is None:
            return
        if math.isinf(bar.miniters):  # tqdm's own way of giving a terminal up
            self._fall_silent(OSError("the progress bar can't be drawn"))
            return
        line = str({key: self._shorten(value) for key, value in readable(logs).items()})
        with self._surviving():
            write_line(bar.write, line)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bars, leaving the training's to be seen."""
        self._close_all()

    def on_exception(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bars, so that the traceback begins on a line of its own."""
        self._close_all()

    def _open_prediction_bar(self, dataloader: Any) -> Any:
        self._close("prediction_bar")
        length = _length(dataloader)
        if length:
            # Within a training it makes room again for the next; alone, it stays to be seen.
            self.prediction_bar = _open_bar(total=length, leave=self.training_bar is None)
        return self.prediction_bar

    def _shorten(self, value: Any) -> Any:
        if isinstance(value, str) and len(value) > self.max_str_len:
            return f"{value[: self.max_str_len]}... ({len(value)} characters; max_str_len={self.max_str_len})"
        return value

    def _close_all(self) -> None:
        self._close("prediction_bar")
        self._close("training_bar")

    def _close(self, name: str) -> None:
        bar = getattr(self, name)
        if bar is not None:
            with self._surviving():
                bar.close()
            setattr(self, name, None)

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except _TERMINAL_GONE as error:
            self._fall_silent(error)

    def _fall_silent(self, error: Exception) -> None:
        for bar in (self.prediction_bar, self.training_bar):
            if bar is not None:
                with suppress(*_TERMINAL_GONE):  # closed all the same: it writes last
                    bar.close()
        self.training_bar = self.prediction_bar = None
        if not self._is_silent:
            self._is_silent = True
            with suppress(*_TERMINAL_GONE):  # the log may go to that same terminal
                logger.warning("The terminal has gone away (%s): no progress is shown from here on", str(error))


def _open_bar(**options: Any) -> Any:
    if sys.stderr is None or sys.stdout is None:  # a program without a console, such as pythonw
        raise OSError("there is no console")
    # With miniters=1 each update looks at the clock (0.1 us): no thread has to watch for steps growing slower.
    return _bar_class()(dynamic_ncols=True, miniters=1, **options)


@cache
def _bar_class() -> type[Any]:
    with warnings.catch_warnings():
        # In a notebook without ipywidgets tqdm warns, then draws the bar as text: it shows all the same.
        warnings.filterwarnings("ignore", message="IProgress not found")
        # Imported with the first bar: it takes 0.1 s, and looks whether this is a notebook.
        from tqdm.auto import tqdm  # noqa: PLC0415

    class Bar(tqdm):  # type: ignore[type-arg]
        # tqdm keeps its lock where writing raises, the terminal being gone: other threads' bars would wait for ever.
        _lock = threading.RLock()
        monitor_interval = 0  # no watching thread: it would write to a terminal that may be gone

        def __init__(self, **options: Any) -> None:
            try:
                super().__init__(**options)
            except _TERMINAL_GONE:
                self.close()  # else other bars count with one that is half made, and trip over it
                raise

    return Bar


def _length(dataloader: Any) -> int | None:
    try:
        return len(dataloader)
    except (TypeError, AttributeError, NotImplementedError):  # none, or over data whose length is unknown
        return None
