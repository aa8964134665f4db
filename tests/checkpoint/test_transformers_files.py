from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from loopwright.checkpoint import (
    Snapshot,
    find_damage,
    load_loopwright_state,
    load_model_weights,
    load_optimizer,
    load_randomness,
    load_scheduler,
    load_trainer_state,
    newest_whole,
    require_whole,
    write_checkpoint,
)
from loopwright.runtime.randomness import capture_randomness, restore_randomness


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": nn.functional.mse_loss(self.layers(inputs).squeeze(-1), labels)}


def make_peer(output_dir: Path, **options: Any) -> transformers.Trainer:
    generator = torch.Generator().manual_seed(1)
    data = [{"inputs": torch.randn(4, generator=generator), "labels": torch.tensor(1.0)} for _ in range(16)]
    torch.manual_seed(0)
    args = transformers.TrainingArguments(
        str(output_dir),
        max_steps=6,
        save_steps=3,
        logging_steps=1,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    return transformers.Trainer(Net(), args, train_dataset=data)


@pytest.fixture(scope="module")
def peer_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, transformers.Trainer]:
    """Return the directory and the Trainer of a whole run of transformers, with dropout and shuffling."""
    output_dir = tmp_path_factory.mktemp("peer")
    trainer = make_peer(output_dir)
    trainer.train()
    return output_dir, trainer


def test_a_checkpoint_of_transformers_is_found_and_read(peer_run: Any) -> None:
    output_dir, trainer = peer_run
    found, skipped = newest_whole(output_dir)
    assert (found, skipped) == (output_dir / "checkpoint-6", [])
    require_whole(found)
    load_model_weights(model := Net(), found)
    mine, theirs = model.state_dict(), trainer.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    trainer.create_optimizer().load_state_dict(load_optimizer(found))
    assert load_scheduler(found)["last_epoch"] == 6  # type: ignore[index]
    assert load_loopwright_state(found) is None
    state = load_trainer_state(found)
    assert (state.global_step, len(state.log_history)) == (6, 6)
    restore_randomness(load_randomness(found))  # type: ignore[arg-type]


def test_transformers_goes_on_from_our_checkpoint_as_from_its_own(peer_run: Any, tmp_path: Path) -> None:
    theirs = peer_run[0] / "checkpoint-3"
    load_model_weights(model := Net(), theirs)
    ours = write_checkpoint(
        Snapshot(
            step=3,
            model=model,
            optimizer=load_optimizer(theirs),
            scheduler=load_scheduler(theirs),
            randomness=load_randomness(theirs),
            trainer_state=load_trainer_state(theirs),
            loopwright_state={"run_id": "run"},
            training_args_json="{}",
        ),
        tmp_path,
    )
    outcomes = []
    for source in (theirs, ours):
        resumed = make_peer(tmp_path / f"from {source.parent.name}")
        resumed.train(resume_from_checkpoint=str(source))
        losses = [log["loss"] for log in resumed.state.log_history if "loss" in log]
        outcomes.append((losses, resumed.model.state_dict(), resumed.optimizer.state_dict()["state"]))
    assert same(outcomes[0], outcomes[1])
    assert len(outcomes[0][0]) == 6


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def test_transformers_reads_our_state_and_randomness(checkpoint: Path) -> None:
    state = transformers.TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    assert state.global_step == 10
    assert state.log_history == [{"loss": 0.1, "step": 10}]
    saved = capture_randomness()
    expected = [np.random.random(), torch.rand(1).item()]
    torch.save(saved, checkpoint / "rng_state.pth")
    torch.manual_seed(5)
    make_peer(checkpoint.parent)._load_rng_state(str(checkpoint))
    assert [np.random.random(), torch.rand(1).item()] == expected


def test_a_save_of_transformers_that_was_cut_short_is_skipped(peer_run: Any, tmp_path: Path) -> None:
    # It writes in place, the state last: what a kill leaves has the highest step and makes its own resume fail.
    output_dir = Path(shutil.copytree(peer_run[0], tmp_path / "run"))
    torn = output_dir / "checkpoint-6"
    (torn / "trainer_state.json").unlink()
    with (torn / "optimizer.pt").open("r+b") as file:
        file.truncate(500)
    found, skipped = newest_whole(output_dir)
    assert found == output_dir / "checkpoint-3"
    assert [path for path, _ in skipped] == [torn]
    assert find_damage(torn) == skipped[0][1] != []
