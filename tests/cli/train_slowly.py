"""A training that another process can watch, and kill. Run by test_tail.py.

python train_slowly.py OUTPUT_DIR STEPS SECONDS_PER_STEP
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import loopwright
from tests.parity.tiny import build


class Slow(loopwright.TrainerCallback):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(self.seconds)


def main() -> None:
    directory, steps, seconds = sys.argv[1:]
    trainer = build(
        loopwright,
        Path(directory),
        callbacks=[Slow(float(seconds))],
        max_steps=int(steps),
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer.train()


if __name__ == "__main__":
    main()
