"""Write points and files to Comet experiments: into archives on the disk, or into the program's own experiment.

    record ──▶ Comet's queue ──▶ its thread ──▶ messages.json ──▶ sealed: an archive, read back, in its place

Comet itself writes an archive at an experiment's end alone, a kill before that loses all of it, and its thread says
nothing of what it could not write. So a record counts when the archive that holds it is sealed; an archive is sealed
when it has so many records, when files come, and at the end. The next one goes on with the same experiment.
"""

from __future__ import annotations

import time
import uuid
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from loopwright._support.log import Logger, get_logger
from loopwright.errors import TrackerError
from loopwright.records import Record
from loopwright.trackers import comet_archives as archives
from loopwright.trackers.comet_archives import Archive, Span
from loopwright.trackers.comet_sdk import Plan, begin_offline, describe, send_files, send_points

logger: Logger = get_logger(__name__)

# `comet upload` sends 15,000 points of a metric in an archive, and a random choice of more.
MOST_RECORDS = 10_000
MOST_POINTS = 50_000
_WRITE_SECONDS = 40.0
_LEAVE_SECONDS = 3.0


class OpenArchive:
    """An archive that is being written: an offline experiment of the SDK's.

    Arguments:
        directory: A new one, for this archive alone, on the disk where it is to be.
        plan: What the experiment is.
    """

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.directory = directory
        self.spans: list[Span] = []
        self.num_records: int = 0
        self.is_ended: bool = False
        self.expected: Counter[tuple[str, int]] = Counter()
        self.sizes: Counter[int] = Counter()
        self.experiment: Any = begin_offline(directory, plan)
        describe(self.experiment, plan)

    @property
    def first(self) -> int | None:
        """Number of its first record, or None."""
        return self.spans[0][0] if self.spans else None

    def note(self, sequence: int, *, follows: bool) -> None:
        """Note that a record is in it; `follows` where the one before it in the run is too."""
        self.num_records += 1
        if follows and self.spans:
            self.spans[-1] = (self.spans[-1][0], sequence)
        else:
            self.spans.append((sequence, sequence))

    def finish(self, contents: str) -> Path:
        """End the experiment and return its archive; may be called again where that failed.

        Raises:
            TrackerError: something that was handed over is not in it.
        """
        experiment = self.experiment
        self.is_ended = True
        self._stop(_WRITE_SECONDS)
        if experiment.customer_error_reported:
            raise TrackerError(f"Comet could not write its archive: {experiment.customer_error_message}")
        (self.content / archives.CONTENTS).write_text(contents)
        experiment.stop_time = int(time.time() * 1000)
        # What `end` does from here on. That adds the duration of this process besides, turns to another directory where
        # this one is full, and waits for its thread's next look.
        experiment._write_experiment_meta_file()
        path = self.directory / str(experiment._get_offline_archive_file_name())
        with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
            for file in sorted(self.content.iterdir()):
                archive.write(file, file.name)
        self._require_all(path)
        return path

    @property
    def content(self) -> Path:
        """What goes into the archive."""
        return self.directory / "content"

    def _require_all(self, path: Path) -> None:
        found: Counter[tuple[str, int]] = Counter()
        files: list[str] = []
        for message in archives.messages_in(path):
            payload = message["payload"]
            if message["type"] == "metric_msg":
                found[payload["metric"]["metricName"], payload["metric"]["step"]] += 1
            elif message["type"] == "file_upload":
                files.append(payload["file_path"])
        members = archives.sizes_in(path)
        if lacking := self.expected - found:
            raise TrackerError(f"Comet's archive lacks {lacking.total()} point(s): {path}")
        if self.sizes - Counter(members.get(name, -1) for name in files):
            raise TrackerError(f"Comet's archive lacks files: {path}")

    def _stop(self, seconds: float) -> None:
        streamer = self.experiment.streamer
        streamer.close()
        if streamer.is_alive():
            streamer.stop()  # a last message: its thread doesn't wait for more
            streamer.join(seconds)
        if streamer.is_alive():
            raise TrackerError(f"Comet has not written its messages within {seconds:.0f} s")

    def drop(self) -> None:
        """Let go of it; nothing of it is left."""
        try:
            self.experiment.streamer.abort_processing = True
            self._stop(_LEAVE_SECONDS)
        except TrackerError as error:
            logger.debug("comet_ml: %s", error)
        self.experiment._finalize()
        archives.clear(self.directory)


class ArchivesSession:
    """A run that is kept in archives, from its opening to its end.

    Arguments:
        directory: Where the archives are.
        owner: The run's name for itself, the same in all sessions.
        plan: What the experiment is.
    """

    def __init__(self, directory: Path, owner: str, plan: Plan) -> None:
        self.directory = directory
        self._owner = owner
        self._plan = plan
        self._unfinished = directory / f".unfinished-{owner}"
        self._open: OpenArchive | None = None
        self._lost: str | None = None
        self._follows = False
        directory.mkdir(parents=True, exist_ok=True)
        archives.clear(self._unfinished)
        self.sealed: list[Archive] = archives.archives_in(directory, owner)

    @property
    def experiment(self) -> Any:
        """The SDK's experiment that is open now; one is begun where there is none."""
        return self._opened().experiment

    def holds(self, sequence: int) -> bool:
        """Return whether a record has been handed over already."""
        known = [span for archive in self.sealed for span in archive.spans]
        return archives.covers(known, sequence) or (
            self._open is not None and archives.covers(self._open.spans, sequence)
        )

    def add(self, record: Record, points: Mapping[str, float], epoch: float | None) -> None:
        """Hand over a record's points, unless an archive has them."""
        if self._is_new(record):
            opened = self._opened()
            send_points(opened.experiment, record, points, epoch)
            opened.expected.update((name, record.step) for name in points)
            self._note(opened, record)
            if opened.num_records >= MOST_RECORDS or opened.expected.total() >= MOST_POINTS:
                self.seal()

    def add_files(self, record: Record, path: Path, prefix: str) -> None:
        """Hand over files, unless an archive has them, and seal it: where they lie they don't stay."""
        if self._is_new(record):
            opened = self._opened()
            opened.sizes += send_files(opened.experiment, record, path, prefix)
            self._note(opened, record)
        self.seal()

    def flush(self) -> None:
        """Do nothing: what was taken counts when its archive is sealed."""

    def _require_whole(self) -> None:
        """Raise until this session is given up: what the archive lost has been handed over, and comes with the next."""
        if self._lost is not None:
            raise TrackerError(self._lost)

    def _is_new(self, record: Record) -> bool:
        self._require_whole()
        is_new = not self.holds(record.sequence)
        self._follows = self._follows and is_new
        return is_new

    def _note(self, opened: OpenArchive, record: Record) -> None:
        opened.note(record.sequence, follows=self._follows)
        self._follows = True

    def _opened(self) -> OpenArchive:
        if self._open is not None and self._open.is_ended:  # it could not be brought into its place
            self.seal()
        if self._open is None:
            plan = self._plan
            if self.sealed and plan.strategy == "create":  # by the first of them
                plan = replace(plan, strategy="get_or_create")
            self._open = OpenArchive(self._unfinished / uuid.uuid4().hex[:8], plan)
            self._follows = False
        return self._open

    def confirmed(self, written: int) -> int:
        """Return the last record before the first that is in no archive; `written` is the last handed over."""
        self._require_whole()
        first = None if self._open is None else self._open.first
        return written if first is None else first - 1

    def seal(self) -> None:
        """Bring what is open into its place.

        Raises:
            TrackerError: it could not be written; what it held has to come again.
        """
        opened = self._open
        if opened is None:
            return
        number = 1 + max((archive.number for archive in self.sealed), default=0)
        contents = archives.describe_contents(self._owner, number, opened.spans)
        target = self.directory / f"{self._plan.key}-{archives.mark(self._owner)}-{number:04}.zip"
        try:
            unfinished = opened.finish(contents)
            archives.put_in_place(unfinished, target)
        except TrackerError as error:
            self._lost = str(error)
            raise
        self.sealed.append(Archive(target, number, tuple(opened.spans)))
        self._open = None
        opened.drop()

    def note_others(self, others: Mapping[str, Any]) -> None:
        """Say more of what the experiment is."""
        self.experiment.log_others(dict(others))

    def end(self, others: Mapping[str, Any]) -> None:
        """Say how the run ended, and seal the last archive."""
        self.note_others(others)
        self.seal()
        archives.clear(self._unfinished)

    def rewind(self, step: int, written: int) -> None:
        """Take points from `step` on out of those archives whose records were written before the rewind."""
        self.seal()
        for archive in self.sealed:
            if archive.last <= written:
                archives.drop_points(archive, step, self._unfinished)

    def leave(self) -> None:
        """Let go of a session that failed."""
        opened, self._open = self._open, None
        if opened is not None:
            opened.drop()


class ProgramsSession:
    """The experiment that the program has begun: it is used, and left open."""

    def __init__(self, experiment: Any, plan: Plan) -> None:
        self.experiment = experiment
        describe(experiment, plan)

    def add(self, record: Record, points: Mapping[str, float], epoch: float | None) -> None:
        """Hand over a record's points."""
        send_points(self.experiment, record, points, epoch)

    def add_files(self, record: Record, path: Path, prefix: str) -> None:
        """Hand over files."""
        send_files(self.experiment, record, path, prefix)

    def flush(self) -> None:
        """Do nothing: Comet's thread has what was taken."""

    def confirmed(self, written: int) -> int:
        """Return 0: what the program's experiment will come to is known at its end."""
        return 0

    def note_others(self, others: Mapping[str, Any]) -> None:
        """Say more of what the experiment is."""
        self.experiment.log_others(dict(others))

    def end(self, others: Mapping[str, Any]) -> None:
        """Say how the run ended, and wait until Comet's thread has taken all.

        Raises:
            TrackerError: it hasn't.
        """
        self.note_others(others)
        until = time.monotonic() + _WRITE_SECONDS
        while not self.experiment.streamer.messages.empty() and time.monotonic() < until:
            time.sleep(0.02)
        if not self.experiment.flush(timeout=int(_WRITE_SECONDS)):
            raise TrackerError("the program's Comet experiment has not taken everything")

    def rewind(self, step: int, written: int) -> None:
        """Do nothing: Comet can't take points back."""

    def leave(self) -> None:
        """Do nothing: it is the program's."""
