"""Small disks that tests fill."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest


def mount_small_disk(request: pytest.FixtureRequest, directory: Path, size: str) -> None:
    """Mount a disk of `size`, such as "2m", at `directory` until the test has ended; skip it where that can't be."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk can't be mounted here")
    request.addfinalizer(lambda: subprocess.run(["umount", "-l", str(directory)], check=False))


def fill(path: Path) -> None:
    """Fill the disk that `path` is on, to the last byte."""
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 1024)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
