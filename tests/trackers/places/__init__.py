"""Where each service keeps what a test sends it, and how it is read back: one module for each tracker that is listed.

A module is named as its tracker, and holds a class `Place`, derived from the one here. The contract test and the fault
matrix take every tracker in the list through its place: a new one is covered by having one. What a place has started in
`environment`, its `close` ends.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, ClassVar

from loopwright.trackers.registry import BUILT_IN


class Place:
    """What one service keeps of one test.

    Arguments:
        directory: The test's own; everything is below it.

    Class attributes:
        name: The tracker's, as `report_to` takes it.
        home: Where the tracker lives with `environment` set: "delivery", "training" or "off". One that is off can't
            be had in a plain training, as Flyte's outside of a task: tests of its own, a fault matrix among them, cover
            it.
        needs_service: Whether a service has to run, which stands in for one on the net. The fault matrix takes these
            places; trainings that report to all trackers at once go on without them, since each costs an SDK's import
            in every delivery process: there the tracker is off, and its own tests cover what these trainings show.
        stores_checkpoints: Whether checkpoints come here with `environment` set.
        tells_runs_apart: Whether runs of one folder are told apart there.
        is_shared: Whether trainings in different folders report to one place.
        call_seconds: How long a call into the SDK may take, where a fault is waited for.
    """

    name: ClassVar[str]
    home: ClassVar[str] = "delivery"
    needs_service: ClassVar[bool] = False
    stores_checkpoints: ClassVar[bool] = False
    tells_runs_apart: ClassVar[bool] = True
    is_shared: ClassVar[bool] = True
    call_seconds: ClassVar[float] = 3

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def environment(self) -> dict[str, str]:
        """Return the variables that bring the service here; make what has to be there before."""
        return {}

    def close(self) -> None:
        """End what `environment` has started."""

    def num_runs(self, out: Path) -> int:
        """Return how many runs the service holds, of all trainings; `out` is the folder of one of them."""
        raise NotImplementedError

    def holds(self, out: Path) -> bool:
        """Return whether the only run that is here holds what counts in the journal of `out`, no more and no less."""
        raise NotImplementedError


def place_of(name: str, directory: Path) -> Any:
    """Return the place of the tracker `name` in `directory`."""
    return importlib.import_module(f"{__name__}.{name}").Place(directory)


def listed_places(directory: Path) -> list[Any]:
    """Return the places of all trackers that are listed."""
    return [place_of(tracker.name, directory) for tracker in BUILT_IN]
