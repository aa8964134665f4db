"""A small training that kills its own process with SIGKILL at a step, or goes through where the step is 0.

python train_and_die.py OUTPUT_DIR STEP_TO_DIE_AT
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import loopwright
from tests.parity.tiny import build


class Death(loopwright.TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(directory: str, step: int) -> None:
    trainer = build(
        loopwright,
        Path(directory),
        callbacks=[Death(step), loopwright.EarlyStoppingCallback(2, early_stopping_threshold=0.5)],
        num_train_epochs=20,
        learning_rate=0.3,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        disable_tqdm=True,
        run_name="resumed",
        save_total_limit=1,
    )
    trainer.train(resume_from_checkpoint="auto")


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]))
