"""A training that is resumed, in a worker: from the call until the end of the first step.

    prepare     a training up to one step after the checkpoint, on data that takes no time
    resume      in a copy of that output directory, where each example takes its time

Every example carries its number, so that a resume in the wrong place is an error here and not a good figure.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset

from benchmarks.recipe import LEARNING_RATE, SEED, collate
from benchmarks.workloads import Perceptron

# As long as it takes to read and tokenize a short text.
EXAMPLE_SECONDS = 0.001
# Of the epoch, after the last checkpoint.
_NUM_MORE_STEPS = 100

Example = dict[str, torch.Tensor]


def _make_example(number: int, length: int, seconds: float) -> Example:
    if seconds:
        time.sleep(seconds)
    # As a share of all, so that inputs stay small: single precision is enough to tell some thousands apart.
    return {"inputs": torch.tensor([number / length, 1.0, 0.5, number % 2.0]), "labels": torch.tensor(number % 2)}


class NumberedExamples(Dataset[Example]):
    """Map-style data, each example of which takes `seconds`."""

    def __init__(self, length: int, seconds: float) -> None:
        self.length = length
        self.seconds = seconds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        return _make_example(index, self.length, self.seconds)


class NumberedStream(IterableDataset[Example]):
    """The same as a stream that knows where it is, as those of Hugging Face's datasets do."""

    def __init__(self, length: int, seconds: float) -> None:
        self.length = length
        self.seconds = seconds
        self._next = 0

    def __iter__(self) -> Iterator[Example]:
        while self._next < self.length:
            self._next += 1
            yield _make_example(self._next - 1, self.length, self.seconds)
        self._next = 0

    def state_dict(self) -> dict[str, int]:
        """Return the position."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to the position."""
        self._next = state["next"]


DATA: dict[str, type[NumberedExamples | NumberedStream]] = {"map-style": NumberedExamples, "stream": NumberedStream}


class WatchedModel(Perceptron):
    """Remembers the number of the example that it saw last."""

    def __init__(self, length: int) -> None:
        super().__init__(4, 0, 2)
        self.length = length
        self.seen = -1

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (batch, classes)."""
        self.seen = round(inputs[-1, 0].item() * self.length)
        return super().logits(inputs)


def prepare(  # noqa: PLR0913 -- a case
    library: str, data: str, num_workers: int, position: int, num_steps: int, output_dir: str
) -> int:
    """Train to the step after `position`, where it saves; return the number of the example of that step.

    Arguments:
        library: Whose Trainer.
        data: One of `DATA`.
        num_workers: Processes that load the data.
        position: Step of the checkpoint.
        num_steps: Steps up to the last position that is measured.
        output_dir: Where to.
    """
    trainer = _make_trainer(library, data, num_workers, num_steps, 0.0, output_dir, _Until(position + 1, position))
    trainer.train()
    _close(library, trainer)
    return int(trainer.model.seen)


def resume(  # noqa: PLR0913 -- a case
    library: str, data: str, num_workers: int, position: int, num_steps: int, output_dir: str, expected: int
) -> dict[str, float]:
    """Resume at `position` in a copy of `output_dir`; return the seconds until the first step has ended.

    Raises:
        RuntimeError: that step was another, or saw another example than the `expected` one.
    """
    with tempfile.TemporaryDirectory(prefix="loopwright-benchmark-") as name:
        copied = Path(name) / "out"
        shutil.copytree(output_dir, copied)
        until = _Until(position + 1)
        trainer = _make_trainer(library, data, num_workers, num_steps, EXAMPLE_SECONDS, str(copied), until)
        began = time.perf_counter()
        trainer.train(resume_from_checkpoint=str(copied / f"checkpoint-{position}"))
        _close(library, trainer)
        if until.first_step != position + 1 or trainer.model.seen != expected:
            raise RuntimeError(
                f"resumed at step {until.first_step} with example {trainer.model.seen}, "
                f"not at {position + 1} with {expected}"
            )
        return {"seconds": until.first_step_ended - began}


class _Until:
    """Has the training saved after one step, and stopped after another; notes when its first one ended."""

    def __init__(self, last_step: int, saved_step: int = -1) -> None:
        self.last_step = last_step
        self.saved_step = saved_step
        self.first_step = -1
        self.first_step_ended = 0.0

    def step_ended(self, step: int, control: Any) -> None:
        """Note the time, and set the flags."""
        if self.first_step < 0:
            self.first_step, self.first_step_ended = step, time.perf_counter()
        control.should_save = step == self.saved_step
        control.should_training_stop = step >= self.last_step


def _make_trainer(  # noqa: PLR0913 -- a case
    library: str, data: str, num_workers: int, num_steps: int, seconds: float, output_dir: str, until: _Until
) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    names = import_module(library)
    length = num_steps + _NUM_MORE_STEPS

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        until.step_ended(state.global_step, control)

    callback = type("Until", (names.TrainerCallback,), {"on_step_end": on_step_end})()
    args = names.TrainingArguments(
        output_dir=output_dir,
        max_steps=length,
        per_device_train_batch_size=1,
        learning_rate=LEARNING_RATE,
        logging_strategy="no",
        save_strategy="no",  # but for the callback's word
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=SEED,
        dataloader_num_workers=num_workers,
    )
    dataset = DATA[data](length, seconds)
    return names.Trainer(
        model=WatchedModel(length), args=args, train_dataset=dataset, data_collator=collate, callbacks=[callback]
    )


def _close(library: str, trainer: Any) -> None:
    if library == "loopwright":
        trainer.reporting.close()
