"""What the commands say of a search."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.search.searching import build, sampler, space
from tests.trackers import readback


def command(*words, folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-m", "loopwright", *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=True,
    ).stdout  # fmt: skip


def test_a_search_is_listed_with_its_trials_and_delivered_with_them(tmp_path, monkeypatch):
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    # No time to deliver anything in: that is left to the command.
    trainer = build(tmp_path / "out", report_to="tensorboard", save_strategy="no", tracker_close_timeout=0.001)
    trainer.hyperparameter_search(space, n_trials=2, sampler=sampler())

    listed = {run["trial"]: run for run in json.loads(command("runs", "out", "--json", folder=tmp_path))}
    assert set(listed) == {None, "run-0", "run-1"}
    assert listed[None]["attempts"][0]["purpose"] == "search"
    assert {listed[name]["parent"] for name in ("run-0", "run-1")} == {listed[None]["id"]}
    shown = command("runs", "out", folder=tmp_path)
    assert f"trial run-1 of search {listed[None]['id'][:8]}" in shown

    assert "out/run-1:" in command("sync", "out", folder=tmp_path)
    (place,) = (tmp_path / "out" / "runs").iterdir()
    for name in ("run-0", "run-1"):
        points = readback.journal(tmp_path / "out" / name)
        assert readback.tensorboard(place / name) == readback.as_float32(points)
