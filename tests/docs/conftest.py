"""A process that reads pages: it runs their blocks of Python, a page's once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Reading:
    """What came of a page's blocks: exit status, output, and the directory that they ran in."""

    exit: int
    said: str
    directory: Path


class Reader:
    """Hands pages to reader.py, and remembers the answers."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._num_orders = 0
        self._readings: dict[str, Reading] = {}

    def read(self, page: str) -> Reading:
        """Run the blocks of a page; its path is from the project's root, or absolute."""
        if page not in self._readings:
            self._readings[page] = self._run(page)
        return self._readings[page]

    def read_and_kill(self, page: str, *, num_blocks: int, killed_at: str) -> Reading:
        """Run the first blocks of a page, and kill -9 that as soon as the path `killed_at` is there."""
        return self._run(page, num_blocks=num_blocks, killed_at=killed_at)

    def _run(self, page: str, *, num_blocks: int | None = None, killed_at: str | None = None) -> Reading:
        directory = self._folder / str(self._num_orders)
        self._num_orders += 1
        directory.mkdir()
        order = {"page": page, "directory": str(directory), "num_blocks": num_blocks, "killed_at": killed_at}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Reading(**json.loads(self._process.stdout.readline()), directory=directory)


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    command = [sys.executable, str(Path(__file__).with_name("reader.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield Reader(process, tmp_path_factory.mktemp("readings"))
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    assert process.stdout is not None
    process.stdout.close()
