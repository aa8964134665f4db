"""Weights & Biases: its offline files."""

from __future__ import annotations

from pathlib import Path

from tests.trackers import places, readback


class Place(places.Place):
    name = "wandb"
    stores_checkpoints = True

    def environment(self) -> dict[str, str]:
        (self.directory / "wandb").mkdir()
        return {
            **{f"WANDB_{name}DIR": str(self.directory / "wandb") for name in ("", "CACHE_", "DATA_", "CONFIG_")},
            "WANDB_MODE": "offline",
            "WANDB_SILENT": "true",
            "WANDB_LOG_MODEL": "checkpoint",
        }

    def num_runs(self, out: Path) -> int:
        return len({path.name.split("-")[-1] for path in (self.directory / "wandb").rglob("*.wandb")})

    def holds(self, out: Path) -> bool:
        return readback.wandb(self.directory / "wandb") == readback.last_of_each(out)
