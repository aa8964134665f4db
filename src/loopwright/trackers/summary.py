"""Show, when a training has ended, what was recorded where: a line for each tracker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from loopwright._support.log import Logger, get_logger
from loopwright.delivery.store import Delivered, standing_of
from loopwright.errors import JournalError
from loopwright.journal.reader import JournalReader

if TYPE_CHECKING:
    from rich.table import Table

logger: Logger = get_logger(__name__)


def print_summary(output_dir: Path, run_id: str, off: Mapping[str, str]) -> None:
    """Print the table on standard error, as progress is; nothing where there is no tracker.

    Arguments:
        output_dir: Where the journal is.
        run_id: The run.
        off: Trackers that report nothing, and why.
    """
    try:
        table = summarize(output_dir, run_id, off)
    except JournalError as error:
        logger.debug("what was recorded where can't be said: %s", error)
        return
    if table.row_count:
        from rich.console import Console

        Console(stderr=True, soft_wrap=True).print(table)


def summarize(output_dir: Path, run_id: str, off: Mapping[str, str]) -> Table:
    """Return the table; see `print_summary`.

    Raises:
        JournalError: the journal can't be read.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Recorded", title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.add_column("tracker", no_wrap=True)
    table.add_column("records", justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
    with JournalReader(output_dir) as reader:
        for entry in sorted(reader.sinks(run_id), key=lambda entry: entry.tracker):
            if entry.tracker not in off:
                delivered, left = standing_of(reader, entry)
                total = reader.count(run_id, tracker=entry.tracker)
                number = str(total) if left == 0 else f"{total - left} of {total}"
                table.add_row(entry.tracker, number, escape(_where(delivered)))
    for name, why in sorted(off.items()):
        table.add_row(name, "off", escape(why), style="dim")
    return table


def _where(delivered: Delivered) -> str:
    if delivered.error is not None:
        return f"waits in the journal: {delivered.error}"
    return str(delivered.reference.get("shown_at", ""))
