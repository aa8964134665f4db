"""Print log lines, for programs without a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from loopwright.callbacks.base import TrainerCallback

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.state import TrainerControl, TrainerState


def readable(logs: dict[str, Any]) -> dict[str, Any]:
    """Return `logs` for people: without the count of floating-point operations, floats to four digits."""
    return {
        key: f"{value:.4g}" if isinstance(value, float) else value for key, value in logs.items() if key != "total_flos"
    }


def write_line(write: Callable[[str], Any], line: str) -> None:
    """Hand `line` to `write`, its characters escaped where the terminal hasn't got them."""
    try:
        write(line)
    except UnicodeEncodeError:
        write(line.encode("ascii", "backslashreplace").decode("ascii"))


class PrinterCallback(TrainerCallback):
    """Prints every log line; the Trainer takes it instead of the progress bar when `disable_tqdm` is set."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print the line on the first process of the machine."""
        if state.is_local_process_zero and logs is not None:
            with suppress(OSError, ValueError):  # a terminal that has gone away is no reason to stop training
                write_line(print, str(readable(logs)))
