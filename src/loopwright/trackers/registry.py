"""Say which trackers there are, and which of them can be used here; imports no SDK.

Others register theirs through the entry-point group `loopwright.trackers`: name -> class derived from
`TrackerCallback`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loopwright._support.extras import is_installed
from loopwright._support.log import Logger, get_logger
from loopwright.arguments.choices import suggest
from loopwright.arguments.reporting import normalize_report_to
from loopwright.errors import ArgumentError, TrackerError
from loopwright.journal.reader import SinkEntry

if TYPE_CHECKING:
    from loopwright.trackers.base import TrackerCallback

logger: Logger = get_logger(__name__)

ENTRY_POINT_GROUP = "loopwright.trackers"


@dataclass(frozen=True, slots=True)
class Listed:
    """A tracker in the list.

    Attributes:
        name: As `report_to` takes it.
        class_path: "module:class".
        sdk: The module whose presence means that it can be used; None where that is known.
        needs: Modules of others that have to be there too.
        instead: Modules any of which does in place of `sdk`.
    """

    name: str
    class_path: str
    sdk: str | None
    needs: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        """Whether its SDK is installed."""
        has_sdk = self.sdk is None or any(is_installed(module) for module in (self.sdk, *self.instead))
        return has_sdk and all(is_installed(module) for module in self.needs)

    def load(self) -> type[Any]:
        """Import and return the class."""
        return load_class(self.class_path)


BUILT_IN = (
    Listed("azure_ml", "loopwright.trackers.azureml:AzureMLCallback", "azureml.core", instead=("azureml.mlflow",)),
    Listed("clearml", "loopwright.trackers.clearml:ClearMLCallback", "clearml"),
    Listed("codecarbon", "loopwright.trackers.codecarbon:CodeCarbonCallback", "codecarbon"),
    Listed("comet_ml", "loopwright.trackers.comet:CometCallback", "comet_ml"),
    Listed("dagshub", "loopwright.trackers.dagshub:DagsHubCallback", "dagshub", needs=("mlflow",)),
    Listed("dvclive", "loopwright.trackers.dvclive:DVCLiveCallback", "dvclive"),
    Listed("flyte", "loopwright.trackers.flyte:FlyteCallback", "flytekit"),
    Listed("mlflow", "loopwright.trackers.mlflow:MLflowCallback", "mlflow"),
    Listed("neptune", "loopwright.trackers.neptune:NeptuneCallback", "neptune"),
    Listed("swanlab", "loopwright.trackers.swanlab:SwanLabCallback", "swanlab"),
    Listed("tensorboard", "loopwright.trackers.tensorboard:TensorBoardCallback", "tensorboard"),
    Listed("trackio", "loopwright.trackers.trackio:TrackioCallback", "trackio"),
    Listed("wandb", "loopwright.trackers.wandb:WandbCallback", "wandb"),
)


@functools.cache
def listed_trackers() -> dict[str, Listed]:
    """Return all trackers by name, built in or registered by others."""
    found = {tracker.name: tracker for tracker in BUILT_IN}
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if point.name in found:
            logger.warning("the tracker %r of %s has the name of another: left out", point.name, point.value)
        else:
            found[point.name] = Listed(point.name, point.value, None)
    return found


def usable_trackers() -> list[str]:
    """Return the names of the trackers that can be used here."""
    return sorted(name for name, tracker in listed_trackers().items() if tracker.is_usable)


def resolve_trackers(report_to: str | Sequence[str] | None) -> list[str]:
    """Return the names of the trackers that `report_to` asks for, each once.

    Raises:
        ArgumentError: a name is unknown, or its SDK is not installed; the message lists those that are.
    """
    names = list(dict.fromkeys(normalize_report_to(report_to)))
    if names == ["all"]:
        return usable_trackers()
    for name in names:
        _require_usable(name)
    return names


def reporting_callbacks(names: Sequence[str], given: Iterable[Any]) -> list[Any]:
    """Return a tracker for each name, but for those of which one, or a class, is among the callbacks `given`.

    Of two that report to the same service, as DagsHub's does to an MLflow server, one does: see `gives_way_to`.
    """
    kinds = [callback if isinstance(callback, type) else type(callback) for callback in given]
    classes = [listed_trackers()[name].load() for name in names]
    made = [kind() for kind in classes if not any(issubclass(other, kind) for other in kinds)]
    return [tracker for tracker in made if not any(_stands_in_for(other, tracker) for other in made)]


def _stands_in_for(other: TrackerCallback, tracker: TrackerCallback) -> bool:
    try:
        return tracker.gives_way_to(other)
    except ArgumentError:  # one of its variables can't be understood: said when the run begins
        return False


def _require_usable(name: str) -> None:
    known = listed_trackers()
    if name in known and known[name].is_usable:
        return
    usable = ", ".join(map(repr, usable_trackers())) or "none"
    if name in known:
        raise ArgumentError(
            f'report_to={name!r}: its SDK is not installed: pip install "loopwright[{name}]"; '
            f"installed here: {usable}; or 'all', 'none'"
        )
    raise ArgumentError(
        f"report_to={name!r}: there is no such tracker; known: {', '.join(map(repr, sorted(known)))}; installed here: "
        f"{usable}; or 'all', 'none'{suggest(name, list(known))}"
    )


def load_class(class_path: str) -> type[Any]:
    """Import and return the class at "module:qualified name".

    Raises:
        TrackerError: there is none.
    """
    module, _, name = class_path.partition(":")
    try:
        found: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise TrackerError(f"the tracker {class_path} can't be loaded: {error}") from error
    return found  # type: ignore[no-any-return]


def make_tracker(entry: SinkEntry) -> TrackerCallback:
    """Make the tracker that an entry of the journal describes, not yet opened."""
    tracker: TrackerCallback = load_class(entry.class_path)(**entry.options.get("arguments", {}))
    tracker.sink_name = entry.tracker
    tracker.recorded_environment = dict(entry.environment)
    tracker.takes_own_records = bool(entry.options.get("takes_own_records"))
    return tracker
