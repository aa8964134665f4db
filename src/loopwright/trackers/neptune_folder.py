"""Read and mend the folder in which Neptune's SDK keeps a run's operations until they are sent.

    <data directory>/offline/run__<id>/data-<number>.log     a JSON object a line, 8 KiB of which wait in memory

A kill leaves half a line, which would hide all that is appended after it: it is cut off. After every record its number
is among the operations: so what is held is known, and nothing is written twice.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_lock = threading.Lock()
_LAST_PUT = "last_put_version"
_LAST_ACK = "last_ack_version"


@dataclass(slots=True)
class Held:
    """What is held of a run.

    Attributes:
        sequence: Number of the last record of which all is there.
        loose: Points that came after it, as path, step and time: of the record that a kill has cut.
    """

    sequence: int = 0
    loose: set[tuple[str, float, float]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder `path` of one run; it need not exist."""

    path: Path

    def look_back(self, marker: str, owner: tuple[str, str]) -> Held:
        """Return what is held.

        Arguments:
            marker: Path of the field that holds the number of the last record.
            owner: Path and value of the field that says whose these numbers are; others don't count.
        """
        held, is_owned = Held(), False
        for _, _, operation in self._operations():
            what = operation["obj"]
            path = "/".join(what["path"])
            if what["type"] == "LogFloats":
                held.loose |= {(path, value["step"], value["ts"]) for value in what["values"]}
            elif path == owner[0]:
                is_owned = what.get("value") == owner[1]
            elif path == marker and is_owned:
                held = Held(int(what["value"]))
        return held if is_owned else Held()

    def drop_points(self, step: float, base: str) -> None:
        """Take the points from `step` on out of the series below the namespace `base`; nobody may have it open."""
        beginning = f"{base}/" if base else ""
        for file in self._files():
            kept = []
            for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
                what = json.loads(line)["obj"]
                is_ours = what["type"] == "LogFloats" and "/".join(what["path"]).startswith(beginning)
                if not (
                    is_ours and any(value["step"] is not None and value["step"] >= step for value in what["values"])
                ):
                    kept.append(line)
            draft = file.with_suffix(".draft")
            draft.write_text("".join(kept), encoding="utf-8")
            draft.replace(file)

    def _files(self) -> list[Path]:
        return sorted(self.path.glob("data-*.log"), key=lambda file: int(file.stem.partition("-")[2]))

    def mend(self) -> None:
        """Cut off what a kill has left half-written, before the SDK opens the folder again."""
        whole, last_version = dict.fromkeys(self._files(), 0), 0
        for file, end, operation in self._operations():
            whole[file], last_version = end, operation["version"]
        for file, length in whole.items():
            if length < file.stat().st_size:
                os.truncate(file, length)
        # The SDK's counter is ahead of the buffer that a kill has taken; it would wait for those operations.
        counter = self.path / _LAST_PUT
        if counter.exists():
            counter.write_text(str(max(last_version, _number(self.path / _LAST_ACK))), encoding="utf-8")

    def _operations(self) -> Iterator[tuple[Path, int, dict[str, Any]]]:
        """Yield each operation with its file and where it ends there, up to the first that isn't whole."""
        for file in self._files():
            end = 0
            with file.open("rb") as lines:
                for line in lines:
                    operation = _parse(line)
                    if operation is None:
                        return
                    end += len(line)
                    yield file, end, operation


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"obj", "version"} <= found.keys() else None


def _number(file: Path) -> int:
    try:
        return int(file.read_text(encoding="utf-8") or 0)
    except (OSError, ValueError):
        return 0


@contextmanager
def runs_kept_in(choose: Callable[[str, str], Path], *, takes_sources: bool) -> Iterator[None]:
    """Let the SDK keep a run that this thread makes in the folder of our choice.

    Its own is in the working directory, and new for each session: `neptune sync` would send those of one run in any
    order, to a run each. It also draws the folder's name from the program's random numbers.

    Arguments:
        choose: Takes "offline", "async" or "sync" and the SDK's id of the run.
        takes_sources: Whether the SDK may look for the program's sources: in the delivery process it finds that one's.
    """
    from neptune.internal.operation_processors import async_operation_processor as asynchronous
    from neptune.internal.operation_processors import offline_operation_processor as offline
    from neptune.internal.operation_processors import sync_operation_processor as synchronous
    from neptune.metadata_containers import run

    def full_path(type_dir: str, container_id: str, container_type: Any) -> Path:
        return choose(type_dir, container_id)

    with _lock, ExitStack() as stack:
        for module in (offline, asynchronous, synchronous):
            stack.enter_context(_replaced_here(module, "get_container_full_path", full_path))
        if not takes_sources:
            stack.enter_context(_replaced_here(run, "upload_source_code", lambda source_files, run: None))
        yield


@contextmanager
def _replaced_here(module: Any, name: str, ours: Callable[..., Any]) -> Iterator[None]:
    """Replace a function of a module for calls from this thread."""
    genuine, here = getattr(module, name), threading.get_ident()

    def chosen(*args: Any, **kwargs: Any) -> Any:
        return (ours if threading.get_ident() == here else genuine)(*args, **kwargs)

    setattr(module, name, chosen)
    try:
        yield
    finally:
        setattr(module, name, genuine)
