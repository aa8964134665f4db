"""Read and put right the files of a DVCLive directory: DVCLive itself only appends to them.

<directory>/.loopwright                    id of the run that the directory belongs to
<directory>/metrics.json                   the last value of each metric, and the step
<directory>/params.yaml
<directory>/plots/metrics/<name>.tsv       a row for each step: "step", then the last part of the name
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from loopwright._support.files import write_text_atomically
from loopwright.errors import TrackerError
from loopwright.journal.values import decode, encode
from loopwright.trackers.naming import as_float

MARKER_NAME = ".loopwright"

_CONTENT = ("plots", "metrics.json", "params.yaml")
_LONGEST_PART = 200  # in bytes; file systems end at 255
_UNFIT = re.compile(r'[\x00-\x1f\x7f"]')


class Row(NamedTuple):
    """One value of one metric, as it stands in its file."""

    step: int
    text: str


# Directories


def claim_directory(wanted: Path, run_id: str, *, shares: bool = False) -> Path:
    """Return `wanted`, made and marked as the run's own; where another's files are in it, one beside it.

    Arguments:
        wanted: Absolute.
        run_id: The run's.
        shares: Whether to take `wanted` whatever is in it.

    Raises:
        TrackerError: those beside it are taken too.
    """
    for name in (wanted.name, f"{wanted.name}_{run_id[:8]}", f"{wanted.name}_{run_id}"):
        directory = wanted.with_name(name)
        directory.mkdir(parents=True, exist_ok=True)
        if _claim(directory, run_id, shares=shares) or shares:
            return directory
    raise TrackerError(f"{wanted} holds another run's files: name another directory (dir=...)")


def _claim(directory: Path, run_id: str, *, shares: bool) -> bool:
    marker = directory / MARKER_NAME
    if not (shares or marker.exists()) and any((directory / name).exists() for name in _CONTENT):
        return False
    try:
        with marker.open("x", encoding="utf-8") as file:
            file.write(run_id)
    except FileExistsError:
        return marker.read_text(encoding="utf-8") == run_id
    return True


def find_repository(directory: Path, *kinds: str) -> Path | None:
    """Return the nearest directory at or above `directory` that holds one of `kinds`, such as ".dvc"."""
    return next((one for one in (directory, *directory.parents) if any((one / kind).exists() for kind in kinds)), None)


def remove_damaged(directory: Path) -> None:
    """Remove what a kill has cut off in the middle and DVCLive couldn't read; it is written anew."""
    from dvclive.serialize import load_yaml

    for name, load in (("metrics.json", _load_json), ("params.yaml", load_yaml)):
        path = directory / name
        try:
            is_whole = not path.exists() or isinstance(load(path), dict)
        except OSError:
            raise
        except Exception:  # whatever a parser raises
            is_whole = False
        if not is_whole:
            path.unlink()


def _load_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def leave_copies_to_dvc(live: Any) -> None:
    """Keep the copies of models out of the experiment's commit: DVCLive would add its whole directory to Git."""
    included = getattr(live, "_include_untracked", None)
    if not isinstance(included, list) or live.dir not in included:
        return
    copies = Path(live.artifacts_dir)
    included.remove(live.dir)
    included += [str(path) for path in Path(live.dir).iterdir() if path != copies]
    included += [str(path) for path in (*copies.glob("*.dvc"), *copies.glob(".gitignore"))]


# Metrics


class MetricFiles:
    """The files of metrics in a DVCLive directory that is claimed."""

    def __init__(self, directory: Path) -> None:
        self._marker = directory / MARKER_NAME
        self._directory = directory / "plots" / "metrics"

    def are_there(self, names: Iterable[str]) -> bool:
        """Return whether each metric has its file, and the directory wasn't deleted meanwhile."""
        return self._marker.exists() and all(self._path(name).exists() for name in names)

    def newest(self, name: str) -> Row | None:
        """Return the row with the highest step; None where there is none."""
        return max(_rows(self._read(name)), key=lambda row: row.step, default=None)

    def take_back(self, name: str, from_step: float) -> None:
        """Remove the rows of `from_step` and later, and what isn't a row: a kill, or a full disk, cut it off."""
        self._keep(name, lambda step: step < from_step)

    def remove(self, name: str, step: int) -> None:
        """Remove the rows of one step."""
        self._keep(name, lambda one: one != step)

    def _keep(self, name: str, is_kept: Callable[[int], bool]) -> None:
        path, before = self._path(name), self._read(name)
        kept = [f"{row.step}\t{row.text}" for row in _rows(before) if is_kept(row.step)]
        after = "\n".join([f"step\t{path.stem}", *kept, ""])
        if not kept:
            path.unlink(missing_ok=True)  # with the header alone it would be no plot
        elif after != before:
            write_text_atomically(path, after)

    def _read(self, name: str) -> str:
        try:
            return self._path(name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""

    def _path(self, name: str) -> Path:
        # with_suffix() would take what follows a dot in the name for one.
        return self._directory / f"{name}.tsv"


def _rows(text: str) -> Iterator[Row]:
    for line in text.split("\n"):
        step, _, value = line.partition("\t")
        try:
            float(value)
            yield Row(int(step), value)
        except ValueError:  # the header, or a line that was cut off
            pass


def as_dvclive_keeps(value: float) -> float | str:
    """Return a number as it stands in DVCLive's files: NaN and the infinities are words there."""
    number = int(value) if isinstance(value, bool) else value
    as_read = as_float(number)  # DVCLive can't take a whole number beyond all floats
    return number if math.isfinite(as_read) else str(as_read)


def put_right(summary: Mapping[str, Any], rows: Mapping[str, Row | None]) -> dict[str, Any]:
    """Return DVCLive's summary with the values of `rows`, and without those metrics that have none."""
    fresh = copy.deepcopy(dict(summary))
    for name, row in rows.items():
        *parents, leaf = name.split("/")
        inner = fresh
        for parent in parents:
            if not isinstance(inner.get(parent), dict):
                inner[parent] = {}
            inner = inner[parent]
        if row is None:
            inner.pop(leaf, None)
        else:
            inner[leaf] = _number(row.text)
    steps = [row.step for row in rows.values() if row is not None]
    return {name: value for name, value in fresh.items() if value != {}} | ({"step": max(steps)} if steps else {})


def _number(text: str) -> float | str:
    value = float(text)
    if not math.isfinite(value):
        return text
    return int(text) if text.lstrip("-").isdigit() else value


# Names and parameters


def fit_name(name: str, taken: Collection[str]) -> str:
    """Return a name that can be a file below the metrics' directory, unlike those that are `taken`."""
    fitting = "/".join(map(_fit_part, name.split("/")))
    while (other := next((one for one in taken if _collide(one, fitting)), None)) is not None:
        end = min(len(other), len(fitting))
        fitting = f"{fitting[:end]}_{fitting[end:]}"
    return fitting


def _collide(one: str, other: str) -> bool:
    # In the summary a metric can't hold others.
    return f"{one}/".startswith(f"{other}/") or other.startswith(f"{one}/")


def _fit_part(part: str) -> str:
    fitting = _UNFIT.sub("_", part).encode("utf-8", "replace")[:_LONGEST_PART].decode("utf-8", "ignore")
    # The first column is "step", and so is a value of the summary.
    return f"{fitting}_" if fitting in {"", ".", "..", "step"} else fitting


def plain_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as YAML can hold them."""
    text = json.dumps(decode(encode(parameters)[0]), ensure_ascii=False)
    return dict(json.loads(text.encode("utf-8", "replace")))
