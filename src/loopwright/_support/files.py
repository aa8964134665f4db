"""Write files so that a reader finds the old content or the new, and a crash loses neither; digest what they hold.

A new file is digested by `create_file` while it is written, never by reading it again, and while it is written the
disk takes what is there already: that hides most of the time which the sync in the end would take.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

DIGEST_ALGORITHM = "xxh128"

_ALGORITHMS: dict[str, Callable[[], Any]] = {
    DIGEST_ALGORITHM: xxhash.xxh3_128,
    "sha256": hashlib.sha256,  # what checkpoints were written with before
}
KNOWN_ALGORITHMS = frozenset(_ALGORITHMS)

# Bytes that are digested, written and synced at a time. Smaller: after each piece a busy interpreter lets this thread
# wait for its turn. Larger: more is left to sync in the end.
_PIECE = 16 << 20


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file as it was written: bytes, and the hex digest of them."""

    size: int
    digest: str


def write_text_atomically(path: Path | str, text: str) -> None:
    """Replace the file at `path` with `text` (UTF-8), durably: written beside it, synced, renamed over it."""
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path | str, content: bytes) -> None:
    """Replace the file at `path` with `content`, durably: written beside it, synced, renamed over it."""
    target = Path(path)
    descriptor, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; give it what an ordinary open() would have given.
        Path(beside).chmod(0o666 & ~_current_umask())
        Path(beside).replace(target)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


class NewFile:
    """A file that is being written: digests what goes into it. Has what `torch.save` asks of a stream."""

    def __init__(self, file: BinaryIO, disk: _EarlySync) -> None:
        self._file = file
        self._disk = disk
        self._digest = _ALGORITHMS[DIGEST_ALGORITHM]()
        self._size = 0
        self._handed_on = 0

    @property
    def record(self) -> FileRecord:
        """Size and digest of what was written so far."""
        return FileRecord(self._size, self._digest.hexdigest())

    def write(self, data: bytes | memoryview) -> int:
        """Append the bytes of `data`, a contiguous buffer, and return how many they are.

        Raises:
            OSError: the file doesn't take them.
        """
        content = memoryview(data).cast("B")
        for start in range(0, len(content), _PIECE):
            piece = content[start : start + _PIECE]
            self._digest.update(piece)
            self._file.write(piece)
            self._size += len(piece)
            if self._size - self._handed_on >= _PIECE:
                self._handed_on = self._size
                self._disk.begin()
        return len(content)

    def flush(self) -> None:
        """Hand to the system what is buffered still."""
        self._file.flush()


@contextmanager
def create_file(path: Path | str) -> Iterator[NewFile]:
    """Write a file from its beginning, in this context; with the context's end its content is on the disk.

    One that is there already is overwritten in place.

    Raises:
        OSError: it could not be written or synced.
    """
    with Path(path).open("wb") as file, _EarlySync(file.fileno()) as disk:
        yield NewFile(file, disk)
        file.flush()


def write_text(path: Path | str, text: str) -> FileRecord:
    """Write `text` (UTF-8) to `path`, in place and durably.

    Raises:
        OSError: it could not be written or synced.
    """
    with create_file(path) as file:
        file.write(text.encode())
    return file.record


def sync_and_digest(path: Path | str) -> FileRecord:
    """Bring a file that somebody else wrote to the disk, and digest it meanwhile by reading it.

    Raises:
        OSError: it could not be read or synced.
    """
    with Path(path).open("rb") as file, _EarlySync(file.fileno()) as disk:
        disk.begin()
        digest, size = _digest(file, DIGEST_ALGORITHM)
    return FileRecord(size, digest)


def link_or_copy(source: Path | str, target: Path | str) -> None:
    """Let `target` be the same file as `source`; a copy, where the disk has no such links. For `shutil.copytree`."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def digest_file(path: Path | str, algorithm: str = DIGEST_ALGORITHM) -> str:
    """Return the hex digest of the file's bytes.

    Raises:
        OSError: it could not be read.
        KeyError: `algorithm` is none of `KNOWN_ALGORITHMS`.
    """
    with Path(path).open("rb", buffering=0) as file:
        return _digest(file, algorithm)[0]


def digest_bytes(content: bytes, algorithm: str = DIGEST_ALGORITHM) -> str:
    """Return the hex digest of `content`.

    Raises:
        KeyError: `algorithm` is none of `KNOWN_ALGORITHMS`.
    """
    digest = _ALGORITHMS[algorithm]()
    digest.update(content)
    return str(digest.hexdigest())


def sync_file(path: Path | str) -> None:
    """Block until the file's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path | str) -> None:
    """Block until the directory's entries (creations, renames, removals) are on the disk; no-op where unsupported."""
    if os.name == "nt":  # Windows can't open a directory, and its renames are journalled
        return
    sync_file(path)


class _EarlySync:
    """Syncs an open file, and on request begins with it while more is being written. A context: its end is the sync.

    Measured for 256 MB: saved and synced in 0.73 of the time that one sync in the end takes.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self._is_over = False
        self._error: OSError | None = None

    def begin(self) -> None:
        """Have what was written so far synced, in the background; the next request may come before that is done."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="loopwright-sync", daemon=True)
            # Near the interpreter's end there are no new threads: then the one sync in the end does it all.
            with contextlib.suppress(RuntimeError):
                self._thread.start()
        self._wanted.set()

    def __enter__(self) -> _EarlySync:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._is_over = True
        self._wanted.set()
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()
        if kind is not None:
            return
        if self._error is not None:  # the system tells of a failed write once: the sync below might succeed
            raise self._error
        os.fsync(self._descriptor)

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._is_over:
                return
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self._error = error
                return


def _digest(file: Any, algorithm: str) -> tuple[str, int]:
    digest, size = _ALGORITHMS[algorithm](), 0
    piece = memoryview(bytearray(min(_PIECE, os.fstat(file.fileno()).st_size + 1)))
    while num_bytes := file.readinto(piece):
        digest.update(piece[:num_bytes])
        size += num_bytes
    return digest.hexdigest(), size


def _current_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
