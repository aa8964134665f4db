"""Keep one run of Neptune's open: hand operations to the SDK, and know what it has got of them.

The SDK puts operations into files; online a thread of its own sends them from there. What is in the files outlives a
kill, and the next session goes on with the same ones.
"""

from __future__ import annotations

import atexit
import logging
import math
import shutil
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright._support.env import read_text, set_variables
from loopwright._support.files import link_or_copy
from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import TrackerError, describe
from loopwright.records import Record, Status
from loopwright.trackers.naming import as_float, group_name, numbers
from loopwright.trackers.neptune_choices import address_of, is_hosted
from loopwright.trackers.neptune_folder import Folder, Held, runs_kept_in

logger: Logger = get_logger(__name__)

# With the SDK's own numbers a dead server is noticed after 61 s, and a request may take 10 minutes.
_WAITING = {"NEPTUNE_RETRIES_TIMEOUT": "5", "NEPTUNE_REQUEST_TIMEOUT": "30"}
_KNOCK_SECONDS = 5.0
_FLUSH_SECONDS = 1.0
_SEND_SECONDS = 15.0  # for what is left when the run ends; it is tried again
_ABANDON_SECONDS = 2.0
_OFF = {
    "capture_stdout": False,
    "capture_stderr": False,
    "capture_hardware_metrics": False,
    "capture_traceback": False,
    "source_files": [],
    "git_ref": False,
    "flush_period": _FLUSH_SECONDS,
}


@dataclass(frozen=True, slots=True)
class Fields:
    """Paths of the fields below the namespace `base`."""

    base: str

    def __call__(self, *names: str) -> str:
        """Return the path of a field, as the SDK reads it."""
        return "/".join(part for name in (self.base, *names) for part in name.split("/") if part)

    @property
    def owner(self) -> str:
        """Whose the numbers are."""
        return self("loopwright/run_id")

    @property
    def marker(self) -> str:
        """The number of the last record."""
        return self("loopwright/sequence")


def load_sdk() -> Any:
    """Import and return Neptune's SDK; unless the program uses it too, it prints warnings only."""
    if "neptune" not in sys.modules:
        set_variables({name: text for name, text in _WAITING.items() if read_text(name) is None})
        import neptune

        logging.getLogger("neptune").setLevel(logging.WARNING)
    import neptune

    return neptune


def begin(directory: Path, own_id: str, options: Mapping[str, Any]) -> Any:
    """Open a run, and go on in its folder where it has one.

    Arguments:
        directory: Where what isn't sent is kept.
        own_id: Names the run's folder.
        options: For `neptune.init_run`; `mode` among them.
    """
    neptune = load_sdk()
    if options["mode"] in {"async", "sync", "read-only"} and options.get("proxies") is None:
        _knock(address_of(str(options["api_token"])))

    def choose(kind: str, sdk_id: str) -> Path:
        # In a form that `neptune sync` reads.
        folder = Folder(directory / kind / f"run__{own_id if kind == 'offline' else f'{sdk_id}__0__{own_id}'}")
        folder.mend()
        return folder.path

    with runs_kept_in(choose, takes_sources=options.get("source_files") is not None):
        return neptune.init_run(**{**_OFF, **options})


def _knock(address: str) -> None:
    """See whether anything answers at all: the SDK itself would wait for a silent server without end."""
    import requests

    try:
        with requests.get(address, timeout=_KNOCK_SECONDS, stream=True):
            return
    except requests.exceptions.SSLError:
        return  # the SDK may have been told to overlook that
    except requests.exceptions.RequestException as error:
        why = " (the hosted service has been shut down)" if is_hosted(address) else ""
        raise TrackerError(f"nothing answers at {address}{why}") from error


class Session:
    """A run that is open.

    Arguments:
        run: The SDK's.
        fields: Where to write.
        owner: Id of Loopwright's run, whose numbers these are.
        is_users: Whether the program made it: then it is not ours to end.

    Attributes:
        held: What its folder or the server has got, once `look_back` has been called.
        is_offline: Whether it is kept in files alone.
    """

    def __init__(self, run: Any, fields: Fields, *, owner: str, is_users: bool) -> None:
        self.run = run
        self.fields = fields
        self.is_users = is_users
        self.held: Held = Held()
        self._owner = owner
        self._marks: deque[tuple[int, int]] = deque()  # the SDK's number of an operation, and the record's
        self._last_safe = 0
        self._end: Status | None = None
        self._is_async = run._mode.value == "async"
        self.is_offline: Any = run._mode.value == "offline"

    @property
    def folder(self) -> Folder:
        """The folder in which the SDK keeps it."""
        return Folder(Path(self.run._op_processor.data_path))

    def look_back(self) -> None:
        """Find out which records are in the folder, or with the server."""
        fields = self.fields
        self.flush()
        if self.is_offline or self._is_async:
            self.held = self.folder.look_back(fields.marker, (fields.owner, self._owner))
        if self.is_offline or not self._has(fields.owner, fields.marker):
            return
        if self.run[fields.owner].fetch() == self._owner:
            sequence = int(self.run[fields.marker].fetch())
            if sequence > self.held.sequence:
                self.held = Held(sequence)

    def _has(self, *paths: str) -> bool:
        return all(self.run.exists(path) for path in paths)

    def forget_at_exit(self) -> None:
        """Keep the SDK from waiting a minute for a dead server when the process ends: all is in the file."""
        atexit.unregister(self.run._shutdown_hook)

    # Writing

    def assign(self, values: Mapping[str, Any]) -> None:
        """Set fields; values inside values get names of their own."""
        from neptune.utils import stringify_unsupported

        for path, value in values.items():
            try:
                self.run[path] = stringify_unsupported(value)
            except _refusals() as error:
                logger.warning("neptune: %s is left out: %s", path, describe(error))

    def add(self, records: Sequence[Record], flat: Iterable[str]) -> None:
        """Write the points of those records that are not there yet, and see them into the file."""
        new = [record for record in records if record.sequence > self.held.sequence]
        if new:
            self._sign()
        for record in new:
            for name, value in numbers(record.values):
                self._add_point(group_name(name), value, record, flat)
            self._mark(record.sequence)
        self._settle(records[-1].sequence)

    def _add_point(self, name: str, value: float, record: Record, flat: Iterable[str]) -> None:
        path, number = self.fields(name), _finite(value)
        if number is None:
            warn_once(logger, f"neptune: {name} is {_shown(value)}, which Neptune can't hold; the journal has it")
            return
        try:
            if name in flat:
                self.run[path] = number
            elif (point := (path, record.step, record.time)) not in self.held.loose:
                self.run[path].append(number, step=record.step, timestamp=record.time)
                self.held.loose.add(point)  # should the record be tried again
        except _refusals() as error:
            warn_once(logger, f"neptune: {name} is left out, the journal has it: {describe(error)}")

    def _sign(self) -> None:
        # Over and over: online the SDK removes a file once all in it is sent, and with it whose the next one's are.
        self.run[self.fields.owner] = self._owner

    def _mark(self, sequence: int) -> None:
        # With each record: were it only with each batch, the next session might cut batches elsewhere.
        self.run[self.fields.marker] = sequence
        self.held = Held(sequence)

    def _settle(self, sequence: int) -> None:
        """Bring all up to this record into the file."""
        self.flush()
        if self._is_async:
            self._marks.append((self.run._op_processor._last_version, sequence))

    def flush(self) -> None:
        """Bring what is written into the file.

        Raises:
            TrackerError: it isn't all there: the disk is full, or the folder is gone.
        """
        with self.run.lock():  # the program may be writing too
            self.run.wait(disk_only=True)
            queue = getattr(self.run._op_processor, "_queue", None)
            if queue is None:
                return
            file, wanted = queue._writer.file_path, queue._writer.file_size
            size = file.stat().st_size if file.exists() else 0
        if size != wanted:
            raise TrackerError(f"{file} holds {size} bytes of {wanted}")

    def last_safe(self, written: int) -> int:
        """Return the last record that a kill can't take: online, one that the server has acknowledged."""
        if not self._is_async:
            return written
        processor = self.run._op_processor
        if not processor._consumer.is_running():
            raise TrackerError("the thread in which Neptune's SDK sends has ended; see delivery.log")
        acknowledged = processor._queue._last_ack_file.read_local()
        while self._marks and self._marks[0][0] <= acknowledged:
            self._last_safe = self._marks.popleft()[1]
        return self._last_safe if self._marks else written

    # Files

    def store(self, path: Path, record: Record, place: str, *, replaces: bool) -> None:
        """Upload the files in a directory, unless they are there.

        Arguments:
            path: The directory; offline it is copied, by links where the disk can, as it may be gone when it is sent.
            record: What says that they are to be stored.
            place: The field.
            replaces: Whether they stand in place of other files that the field holds.
        """
        from neptune.types import FileSet

        if record.sequence > self.held.sequence:
            source = self._keep(path, replaces=replaces) if self.is_offline else path
            self._sign()
            self.run[self.fields(place)].assign(FileSet([str(source)]))
            self._mark(record.sequence)
        self._settle(record.sequence)

    def _keep(self, path: Path, *, replaces: bool) -> Path:
        # Beside the run's folder, not in it: `neptune sync` gives that another name before it sends the files.
        folder = self.folder.path
        kept = folder.parent.parent / "files" / folder.name / path.name
        if not kept.exists():
            draft = kept.with_name(f".{kept.name}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(path, draft, copy_function=link_or_copy)
            draft.rename(kept)
        if replaces:
            for other in kept.parent.iterdir():
                if other != kept:
                    shutil.rmtree(other, ignore_errors=True)
        return kept

    # The end

    def end(self, status: Status) -> None:
        """Say how it ended, see everything sent, and stop.

        Raises:
            TrackerError: the server doesn't take it all; the run stays open.
        """
        if self._end is not status:  # else it is tried again
            self.assign({self.fields("loopwright/status"): str(status)})
            if not self.is_users:
                self.run["sys/failed"] = status in {Status.FAILED, Status.KILLED}
            self._end = status
        self.flush()
        queue = self.run._op_processor._queue if self._is_async else None
        if queue is not None and not queue.wait_for_empty(_SEND_SECONDS):
            raise TrackerError(f"{queue.size()} operations wait for Neptune's server, which doesn't take them")
        if not self.is_users:
            self.run.stop(seconds=_SEND_SECONDS)

    def drop(self) -> None:
        """Let it go; what is in the file stays there."""
        if self.is_users:
            return
        run = self.run
        self.forget_at_exit()
        with suppress(Exception):
            run.stop(seconds=_ABANDON_SECONDS)
        # Where that failed, what is left in memory must not get into the file later, and forks would wait for its end.
        with suppress(Exception):
            run._op_processor._queue._writer.close()
        with run._forking_cond:
            run._state = type(run._state).STOPPED
            run._forking_cond.notify_all()


def _refusals() -> tuple[type[Exception], ...]:
    """Return what the SDK raises for a name or value that it can't hold: a field where others are below, say."""
    from neptune.exceptions import MetadataInconsistency

    return MetadataInconsistency, AttributeError, TypeError, ValueError


def _finite(value: float) -> float | None:
    number = as_float(value)
    return number if math.isfinite(number) else None


def _shown(value: float) -> str:
    return str(value) if isinstance(value, float) else "beyond the largest float"
