"""Where a training writes is there when the first callback hears of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import loopwright
from loopwright import TrainerCallback
from loopwright.errors import ArgumentError
from tests.parity.tiny import build


class Writes(TrainerCallback):
    def on_init_end(self, args, state, control, **kwargs):
        Path(args.output_dir, "begun").touch()


def test_output_dir_is_there_when_the_trainer_is_built(tmp_path):
    build(loopwright, tmp_path / "new" / "out", callbacks=[Writes()])
    assert (tmp_path / "new" / "out" / "begun").exists()


@pytest.mark.parametrize("below", ["", "out"])
def test_a_file_in_its_place_is_named(below, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match=r"output_dir='.*': expected a directory; a file is there, or above it"):
        build(loopwright, tmp_path / "file" / below)


def test_what_can_not_be_made_yet_is_told_and_no_error(tmp_path, monkeypatch, caplog):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    build(loopwright, tmp_path / "later")
    assert "can't be made: [Errno 13] Permission denied" in caplog.text
