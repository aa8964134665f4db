"""TensorBoard: event files, read by its own reader."""

from __future__ import annotations

from pathlib import Path

from tests.trackers import places, readback


class Place(places.Place):
    name = "tensorboard"
    is_shared = False

    def num_runs(self, out: Path) -> int:
        return len([path for path in (out / "runs").rglob("*") if path.is_dir()])

    def holds(self, out: Path) -> bool:
        return readback.tensorboard(out / "runs") == readback.as_float32(readback.journal(out))
