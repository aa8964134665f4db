"""A training that knows nothing of crashes: started again, it goes on. Run by test_trackers_after_kills.py.

python train_until_done.py OUTPUT_DIR TRACKERS STEPS SECONDS_PER_STEP
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "trackers" / "generic")]

from loopwright import TrainerCallback  # noqa: E402
from tests.trackers.trainings import build  # noqa: E402


class Slow(TrainerCallback):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(self.seconds)

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs["added_by_callback"] = state.global_step * 2


def main() -> None:
    directory, trackers, steps, seconds = sys.argv[1:]
    trainer = build(
        Path(directory),
        callbacks=[Slow(float(seconds))],
        report_to=trackers.split(","),
        max_steps=int(steps),
        logging_steps=3,
        eval_strategy="steps",
        eval_steps=8,
        save_steps=5,
        save_total_limit=3,
        run_name="killed",
        tracker_call_timeout=60,
        tracker_close_timeout=240,  # eleven SDKs are imported first, beside whatever else the machine does
    )
    trainer.train(resume_from_checkpoint="auto")


if __name__ == "__main__":
    main()
