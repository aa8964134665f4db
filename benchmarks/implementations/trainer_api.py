"""The one program that Loopwright's and transformers' Trainer both run: their names and arguments are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.recipe import LEARNING_RATE, SEED, Job, collate


def train(library: Any, job: Job) -> None:
    """Train with `library`'s Trainer, all default callbacks on."""
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
    )
    trainer = library.Trainer(
        model=job.model,
        args=args,
        train_dataset=job.dataset,
        data_collator=collate,
        callbacks=make_callbacks(library.TrainerCallback, job),
    )
    trainer.train()


def make_event(library: Any, num_listening: int) -> Callable[[], object]:
    """Return a call of an event that the default flow ignores, with it and `num_listening` callbacks attached."""
    listening = [
        type(f"Listener{number}", (library.TrainerCallback,), {"on_pre_optimizer_step": _do_nothing})()
        for number in range(num_listening)
    ]
    handler = library.CallbackHandler([library.DefaultFlowCallback(), *listening], None, None, None, None)
    args, state, control = object(), library.TrainerState(), library.TrainerControl()
    return lambda: handler.on_pre_optimizer_step(args, state, control)


def make_callbacks(base: type, job: Job) -> list[Any]:
    """Return the callbacks that the setting asks for, each of a class of its own, as in a real program."""
    idle = [type(f"Idle{number}", (base,), {})() for number in range(job.setting.idle_callbacks)]
    counting = [
        type(f"StepCounter{number}", (base,), {"num_steps": 0, "on_step_end": _count_step})()
        for number in range(job.setting.listening_callbacks)
    ]
    return idle + counting


def _count_step(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
    self.num_steps += 1


def _do_nothing(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
    pass
