"""What is said about a run, how loudly, and to whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from loopwright.arguments.annotations import TokenCountOrFlag
from loopwright.arguments.choices import LogLevel
from loopwright.errors import ArgumentError


@dataclass(init=False, repr=False, eq=False)
class ReportingArguments:
    """Log levels, progress bar and trackers."""

    report_to: list[str] | str | None = "all"
    """Trackers that receive the logs: a name, several, "all" those installed, or "none"."""

    run_name: str | None = None
    """The run's name in trackers."""

    project: str = "huggingface"
    """The project's name in trackers that have projects and no variable of their own for it."""

    logging_dir: str | None = None
    """Directory for TensorBoard's files; None leaves it to the tracker."""

    tracker_open_timeout: float = 30.0
    """Seconds that training waits, before its first step, for trackers that live in its own process."""

    tracker_call_timeout: float = 60.0
    """Seconds that a call into a tracker's SDK may take before the tracker counts as hanging."""

    tracker_close_timeout: float = 60.0
    """Seconds that trackers have, when training has ended, to deliver what is left; the rest stays in the journal."""

    logging_nan_inf_filter: bool = True
    """Leave steps whose loss is not finite out of the logged mean; their number is logged beside it."""

    logging_async: bool = False
    """On an accelerator, make a log line when its numbers have arrived, a step or two later, and wait for none."""

    include_num_input_tokens_seen: TokenCountOrFlag = field(default="no", metadata={"nargs": "?", "const": "all"})
    """Count the input tokens trained on: "all", only "non_padding" ones, or "no"."""

    log_level: LogLevel | str = "passive"
    """Log level of the first process; "passive" leaves it as the program has set it."""

    log_level_replica: LogLevel | str = "warning"
    """Log level of the other processes."""

    log_on_each_node: bool = True
    """Let the first process of every machine speak with `log_level`, not only the first of all."""

    disable_tqdm: bool | None = None
    """Print log lines instead of showing a progress bar; None does so where the log level is above warning."""


def normalize_report_to(value: str | Sequence[str] | None) -> list[str]:
    """Return `value` as a list: empty for "none", ["all"] for "all" and None, else the names.

    Raises:
        ArgumentError: "all" or "none" stands beside other names.
    """
    names = ["all"] if value is None else [value] if isinstance(value, str) else list(value)
    if names == ["none"]:
        return []
    if len(names) > 1 and (alone := {"all", "none"}.intersection(names)):
        raise ArgumentError(f"report_to={names!r}: {alone.pop()!r} stands alone, or leave it out")
    return names
