"""The one program that Loopwright's and transformers' Trainer both run: their names and arguments are the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.recipe import LEARNING_RATE, SEED, Job, check_counts, collate


def train(library: Any, job: Job, callbacks: Sequence[Any] = (), **arguments: Any) -> Any:
    """Train with `library`'s Trainer, all default callbacks on, and return it.

    Arguments:
        library: Where the names are.
        job: What to train.
        callbacks: Callbacks besides those that the setting asks for.
        arguments: Arguments of the training that `library` alone has.
    """
    setting = job.setting
    args = library.TrainingArguments(
        output_dir=str(job.output_dir),
        max_steps=job.steps,
        per_device_train_batch_size=job.batch_size,
        gradient_accumulation_steps=setting.accumulation,
        learning_rate=LEARNING_RATE,
        logging_steps=setting.log_every,
        save_strategy="no",
        report_to="none",
        disable_tqdm=not setting.bar,
        use_cpu=True,
        seed=SEED,
        train_sampling_strategy="random" if setting.shuffle else "sequential",
        **arguments,
    )
    # Each of a class of its own, as in a real program.
    idle = [type(f"Idle{number}", (library.TrainerCallback,), {})() for number in range(setting.idle_callbacks)]
    counting = _make_counters(library.TrainerCallback, "on_step_end", setting.listening_callbacks)
    trainer = library.Trainer(
        model=job.model,
        args=args,
        train_dataset=job.dataset,
        data_collator=collate,
        callbacks=[*idle, *counting, *callbacks],
    )
    if setting.silent:
        trainer.remove_callback(library.PrinterCallback)
    trainer.train()
    check_counts(counting, job.steps)
    return trainer


def make_event(library: Any, num_listening: int) -> tuple[Callable[[], object], list[Any]]:
    """Return a call of an event that the default flow ignores, and the `num_listening` callbacks that count it."""
    counting = _make_counters(library.TrainerCallback, "on_pre_optimizer_step", num_listening)
    handler = library.CallbackHandler([library.DefaultFlowCallback(), *counting], None, None, None, None)
    args, state, control = object(), library.TrainerState(), library.TrainerControl()
    return lambda: handler.on_pre_optimizer_step(args, state, control), counting


def _make_counters(base: type, event: str, number: int) -> list[Any]:
    return [type(f"Counter{index}", (base,), {"num_calls": 0, event: _count})() for index in range(number)]


def _count(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
    self.num_calls += 1
