"""Read the archives in which Comet keeps an offline experiment, and say what of a run they hold.

    <directory>/<experiment's key>-<run>-0001.zip, -0002.zip, …     whole, or not there
    <directory>/.unfinished-<run>/                                  being written; of no use after a kill

An archive is a ZIP file of Comet's SDK. A member of ours, which `comet upload` passes over, names the run and the
numbers of the records that are in it, so that they go along with them, whatever else is lost.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright._support.files import sync_directory, sync_file
from loopwright._support.log import Logger, get_logger

logger: Logger = get_logger(__name__)

CONTENTS = "loopwright.json"
MESSAGES = "messages.json"

# First and last number of records that follow one another in a run.
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Archive:
    """A whole archive.

    Attributes:
        path: The file.
        number: Counted over the archives of a run.
        spans: The records that it holds.
    """

    path: Path
    number: int
    spans: tuple[Span, ...]

    @property
    def last(self) -> int:
        """Number of its last record; 0 where it holds none."""
        return max((last for _, last in self.spans), default=0)


def covers(spans: Sequence[Span], sequence: int) -> bool:
    """Return whether a record is in one of the spans."""
    return any(first <= sequence <= last for first, last in spans)


def archives_in(directory: Path, owner: str) -> list[Archive]:
    """Return the whole archives of a run, the oldest first; damaged ones are set aside."""
    found = []
    for path in sorted(directory.glob("*.zip")):
        try:
            archive = _read(path, owner)
        except zipfile.BadZipFile as error:
            if f"-{mark(owner)}-" in path.name:
                logger.warning("comet_ml: %s is damaged (%s): set aside, its records come again", path, error)
                path.replace(path.with_name(f"{path.name}.damaged"))
        else:
            found += [archive] if archive is not None else []
    return sorted(found, key=lambda archive: archive.number)


def _read(path: Path, owner: str) -> Archive | None:
    with zipfile.ZipFile(path) as opened:
        if CONTENTS not in opened.namelist():  # not one of ours
            return None
        contents = json.loads(opened.read(CONTENTS))
    if contents["owner"] != owner:
        return None
    return Archive(path, contents["number"], tuple((first, last) for first, last in contents["spans"]))


def mark(owner: str) -> str:
    """Return what of a run's name is in the names of its archives."""
    return owner[:8]


def describe_contents(owner: str, number: int, spans: Sequence[Span]) -> str:
    """Return the text of the member of ours."""
    return json.dumps({"owner": owner, "number": number, "spans": [list(span) for span in spans]})


def messages_in(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what is to be sent to Comet, in order: each with a "type" and a "payload"."""
    with zipfile.ZipFile(path) as opened, opened.open(MESSAGES) as lines:
        for line in lines:
            yield json.loads(line)


def sizes_in(path: Path) -> dict[str, int]:
    """Return the size of each member by its name."""
    with zipfile.ZipFile(path) as opened:
        return {member.filename: member.file_size for member in opened.infolist()}


def put_in_place(unfinished: Path, target: Path) -> None:
    """Let an archive appear, whole and durable."""
    sync_file(unfinished)
    unfinished.replace(target)
    sync_directory(target.parent)


def drop_points(archive: Archive, step: int, beside: Path) -> None:
    """Take the points from `step` on out of an archive; files and all else stay.

    Arguments:
        archive: The archive, which is replaced as a whole.
        step: The first step that no longer counts.
        beside: A directory on the same disk for the new one.
    """
    if not any(_is_late(message, step) for message in messages_in(archive.path)):
        return
    beside.mkdir(parents=True, exist_ok=True)
    unfinished = beside / archive.path.name
    with zipfile.ZipFile(archive.path) as old, zipfile.ZipFile(unfinished, "w", allowZip64=True) as new:
        for member in old.infolist():
            with old.open(member) as source, new.open(member.filename, "w", force_zip64=True) as target:
                if member.filename == MESSAGES:
                    target.writelines(line for line in source if not _is_late(json.loads(line), step))
                else:
                    shutil.copyfileobj(source, target)
    put_in_place(unfinished, archive.path)


def _is_late(message: dict[str, Any], step: int) -> bool:
    if message["type"] != "metric_msg":
        return False
    at = message["payload"]["metric"]["step"]
    return at is not None and at >= step


def clear(directory: Path) -> None:
    """Remove what a killed session left unfinished."""
    shutil.rmtree(directory, ignore_errors=True)
