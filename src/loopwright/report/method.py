"""`Trainer.plot`: the part of the Trainer that belongs to this room."""

from __future__ import annotations

from typing import Any


class Plotting:
    """What a Trainer has for looking at its run: `plot`."""

    args: Any
    run_id: str

    def plot(self) -> Any:
        """Return a figure of this run's curves so far, an instance of `plotly.graph_objects.Figure`.

        A notebook shows it at a cell's end. The values come from the journal: also those of attempts before this one,
        and while training goes on in another thread.

        Raises:
            JournalNotFound: nothing has been logged yet.
            MissingExtra: plotly is not installed; the message holds the pip line.
        """
        from loopwright.report.figure import figure_of
        from loopwright.report.reading import read_run

        return figure_of([read_run(self.args.output_dir, self.run_id)])
