"""A process that forks trainings, one for each module."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from loopwright.errors import JournalError
from loopwright.journal.reader import JournalReader


class Forker:
    def __init__(self, process):
        self._process = process

    def train(self, scene, directory, *, signal=None, after=None, **changes):
        """Train `scene`, end it by `signal` after so many seconds, and return its exit status and how long it took."""
        directory.mkdir(parents=True, exist_ok=True)
        order = {"scene": scene, "directory": str(directory), "changes": changes, "signal": signal, "after": after}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["exit"], answer["seconds"]

    def is_over(self, directory):
        """Return whether the training had ended in order; one that early stopping ended would go on, started again."""
        try:
            with JournalReader(directory) as reader:
                return reader.attempts(reader.runs()[-1].id)[-1].status.is_success
        except (JournalError, IndexError):
            return False

    def outcome(self, directory):
        return torch.load(directory / "outcome.pt", weights_only=False)

    def log(self, directory):
        return (directory / "log.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def forker():
    command = [sys.executable, str(Path(__file__).with_name("forker.py"))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield Forker(process)
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()
