"""Small snapshots to write, and a ready checkpoint to damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from loopwright.checkpoint.snapshot import Snapshot
from loopwright.checkpoint.writer import write_checkpoint
from loopwright.runtime.randomness import capture_randomness
from loopwright.state import TrainerState

MakeSnapshot = Callable[..., Snapshot]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_snapshot() -> MakeSnapshot:
    """Return a function that makes the snapshot of a step, different in every part from that of any other step."""

    def make(step: int = 10, run_id: str = "run-a", **changed: object) -> Snapshot:
        generator = torch.Generator().manual_seed(step)
        model = nn.Linear(4, 3)
        model.weight.data.copy_(torch.randn(3, 4, generator=generator))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1 / step)
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5, 5 + step])
        parts: dict[str, object] = {
            "step": step,
            "model": model,
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "scaler": {"scale": 2.0**step, "growth_factor": 2.0, "_growth_tracker": 0},
            "randomness": capture_randomness() | {"cpu": torch.Generator().manual_seed(step).get_state()},
            "trainer_state": TrainerState(0.5, global_step=step, log_history=[{"loss": 1.0 / step, "step": step}]),
            "loopwright_state": {"run_id": run_id, "position": {"batch": step}},
            "training_args_json": f'{{"seed": {step}}}\n',
            "extra": {
                "data_state.pt": {"epoch": 0, "batch": step, "order": np.arange(step, dtype=np.int64)},
                "update.pt": {"batches": [{"x": torch.full((2,), float(step))}], "gradients": {"weight": None}},
            },
        }
        return Snapshot(**(parts | changed))  # type: ignore[arg-type]

    return make


@pytest.fixture
def checkpoint(tmp_path: Path, make_snapshot: MakeSnapshot) -> Path:
    """Return a whole checkpoint of step 10."""
    return write_checkpoint(make_snapshot(10), tmp_path / "run")
