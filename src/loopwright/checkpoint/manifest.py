"""Write and read `manifest.json`: which files a checkpoint consists of, how large they are, and their digests.

    {"format": 1, "algorithm": "sha256", "written_at": 1700000000.0,
     "files": {"model.safetensors": {"size": 12, "digest": "..."}, ...},
     "digest": "..."}

The last one is the digest of all the rest, so that a change of the manifest itself shows too.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright._support.files import DIGEST_ALGORITHM, digest_file, sync_file
from loopwright.checkpoint.layout import MANIFEST_NAME, why_unreadable
from loopwright.errors import CheckpointDamaged

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file as it was written: bytes, and the hex digest of them."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint consists of: its files by relative path, with slashes, and the Unix time of writing."""

    files: dict[str, FileRecord]
    written_at: float


def files_in(directory: Path) -> Iterator[Path]:
    """Yield every file in `directory` and below, the manifest aside."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / MANIFEST_NAME:
            yield path


def write_manifest(directory: Path) -> None:
    """Describe all files in `directory` in its manifest, and sync that to the disk."""
    files = {
        path.relative_to(directory).as_posix(): {"size": path.stat().st_size, "digest": digest_file(path)}
        for path in files_in(directory)
    }
    body = {"format": FORMAT_VERSION, "algorithm": DIGEST_ALGORITHM, "written_at": time.time(), "files": files}
    manifest = directory / MANIFEST_NAME
    manifest.write_text(json.dumps(body | {"digest": _digest_of(body)}, indent=2) + "\n", encoding="utf-8")
    sync_file(manifest)


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


def _parse(body: dict[str, Any]) -> Manifest:
    if body["format"] != FORMAT_VERSION:
        raise CheckpointDamaged(f"format {body['format']!r}; this version of Loopwright reads {FORMAT_VERSION}")
    if body.pop("digest") != _digest_of(body):
        raise CheckpointDamaged("changed since it was written")
    if body["algorithm"] != DIGEST_ALGORITHM:
        raise CheckpointDamaged(
            f"digests by {body['algorithm']!r}; this version of Loopwright knows {DIGEST_ALGORITHM}"
        )
    files = {name: FileRecord(int(file["size"]), str(file["digest"])) for name, file in body["files"].items()}
    return Manifest(files, float(body["written_at"]))


def _digest_of(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.new(DIGEST_ALGORITHM, canonical.encode()).hexdigest()
