"""Write and read `manifest.json`: which files a checkpoint consists of, how large they are, and their digests.

    {"format": 1, "algorithm": "xxh128", "written_at": 1700000000.0,
     "files": {"model.safetensors": {"size": 12, "digest": "..."}, ...},
     "digest": "..."}

The last one is the digest of all the rest, so that a change of the manifest itself shows too. Digests are XXH3's of
128 bits (SHA-256 in older checkpoints, which are read as well). They tell of accidents and are not cryptographic, nor
would that help: who can change a file can change the manifest. What protects from a hostile checkpoint is that nothing
in it is ever executed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright._support.files import (
    DIGEST_ALGORITHM,
    KNOWN_ALGORITHMS,
    FileRecord,
    digest_bytes,
    sync_and_digest,
    write_text,
)
from loopwright.checkpoint.layout import MANIFEST_NAME, why_unreadable
from loopwright.errors import CheckpointDamaged, CheckpointError

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint consists of: its files by relative path, with slashes, and the Unix time of writing."""

    files: dict[str, FileRecord]
    written_at: float
    algorithm: str = DIGEST_ALGORITHM


def files_in(directory: Path) -> Iterator[Path]:
    """Yield every file in `directory` and below, the manifest aside."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / MANIFEST_NAME:
            yield path


def written_at(directory: Path) -> float | None:
    """Return when the checkpoint was written, in seconds since 1970; None where no manifest says so."""
    try:
        return read_manifest(directory).written_at
    except (CheckpointError, OSError):
        return None


def count_files(directory: Path) -> tuple[int, int]:
    """Return how many files there are, and their bytes; those that can't be looked at don't count."""
    num_files = size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                size += (Path(folder) / name).stat().st_size
            except OSError:  # deleted meanwhile
                continue
            num_files += 1
    return num_files, size


def write_manifest(directory: Path, known: Mapping[str, FileRecord]) -> None:
    """Describe all files in `directory` in its manifest; on return they and it are on the disk.

    Arguments:
        directory: Where the files are.
        known: The files that are synced already, by relative path, as they were written. All others are synced here,
            and digested by reading them.

    Raises:
        CheckpointError: a file is not as long as was written, or gone.
        OSError: a file could not be read or synced, or the manifest not be written.
    """
    found = {path.relative_to(directory).as_posix(): path for path in files_in(directory)}
    for name, record in known.items():
        size = found[name].stat().st_size if name in found else None
        if size != record.size:
            there = "is gone" if size is None else f"has {size} bytes on the disk"
            raise CheckpointError(f"{name} {there}, and {record.size} were written")
    records = {name: known.get(name) or sync_and_digest(path) for name, path in found.items()}
    body = {
        "format": FORMAT_VERSION,
        "algorithm": DIGEST_ALGORITHM,
        "written_at": time.time(),
        "files": {name: dataclasses.asdict(record) for name, record in records.items()},
    }
    write_text(directory / MANIFEST_NAME, json.dumps(body | {"digest": _digest_of(body)}, indent=2) + "\n")


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of the checkpoint in `directory`.

    Raises:
        CheckpointDamaged: it is missing, changed, or of a format that this version doesn't know.
    """
    if reason := why_unreadable(directory, MANIFEST_NAME):
        raise CheckpointDamaged(reason)
    try:
        body = json.loads((directory / MANIFEST_NAME).read_text(encoding="utf-8"))
        return _parse(body)
    except CheckpointDamaged:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CheckpointDamaged(f"not a manifest: {type(error).__name__}: {error}") from error


def find_size_damage(directory: Path) -> list[str]:
    """Return which files of the manifest are missing or have another size, a line for each; no other file is read."""
    try:
        files = read_manifest(directory).files
    except CheckpointDamaged as error:
        return [f"{MANIFEST_NAME}: {error}"]
    damage = []
    for name, record in files.items():
        if reason := why_unreadable(directory, name):
            damage.append(f"{name}: {reason}")
        elif (size := (directory / name).stat().st_size) != record.size:
            damage.append(f"{name}: has {size} bytes, was written with {record.size}")
    return damage


def _parse(body: dict[str, Any]) -> Manifest:
    if body["format"] != FORMAT_VERSION:
        raise CheckpointDamaged(f"format {body['format']!r}; this version of Loopwright reads {FORMAT_VERSION}")
    if (algorithm := body["algorithm"]) not in KNOWN_ALGORITHMS:
        known = " and ".join(sorted(KNOWN_ALGORITHMS))
        raise CheckpointDamaged(f"digests by {algorithm!r}; this version of Loopwright knows {known}")
    if body.pop("digest") != _digest_of(body):
        raise CheckpointDamaged("changed since it was written")
    files = {name: FileRecord(int(file["size"]), str(file["digest"])) for name, file in body["files"].items()}
    return Manifest(files, float(body["written_at"]), algorithm)


def _digest_of(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return digest_bytes(canonical.encode(), body["algorithm"])
