"""Ignite: an Engine around a hand-written update, with its handlers for the log line and the bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from torch.nn.utils import clip_grad_norm_

from benchmarks.recipe import (
    MAX_GRAD_NORM,
    Job,
    check_counts,
    make_loader,
    make_optimizer,
    make_scheduler,
    write_log_line,
)


def train(job: Job) -> None:
    """Train."""
    model, optimizer = job.model, make_optimizer(job)
    scheduler = make_scheduler(job, optimizer)
    parameters = list(model.parameters())
    accumulation, log_every = job.setting.accumulation, job.setting.log_every
    sums = {"loss": torch.zeros(()), "grad_norm": torch.zeros(())}

    def update(engine: Engine, batch: dict[str, torch.Tensor]) -> None:
        loss = model(**batch)["loss"]
        if accumulation > 1:
            loss = loss / accumulation
        loss.backward()
        sums["loss"] += loss.detach()
        if engine.state.iteration % accumulation == 0:
            sums["grad_norm"] = clip_grad_norm_(parameters, MAX_GRAD_NORM)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    def log(engine: Engine) -> None:
        values = {
            "loss": sums["loss"].item() / log_every,
            "grad_norm": sums["grad_norm"].item(),
            "learning_rate": float(scheduler.get_last_lr()[0]),
        }
        write_log_line(engine.state.iteration // accumulation, values)
        sums["loss"].zero_()

    engine = Engine(update)
    engine.add_event_handler(Events.ITERATION_COMPLETED(every=log_every * accumulation), log)
    counting = _attach_counters(engine, job.setting.listening_callbacks)
    if job.setting.bar:
        ProgressBar().attach(engine)
    model.train()
    engine.run(make_loader(job), max_epochs=1)
    check_counts(counting, job.steps * accumulation)


def make_event(num_listening: int) -> tuple[Callable[[], object], list[Any]]:
    """Return a call of an event, and the handlers that count it."""
    engine = Engine(_do_nothing)
    return lambda: engine.fire_event(Events.ITERATION_COMPLETED), _attach_counters(engine, num_listening)


def _do_nothing(engine: Engine, batch: Any) -> None:
    pass


def _attach_counters(engine: Engine, number: int) -> list[Any]:
    counting = [_Counter() for _ in range(number)]
    for counter in counting:
        engine.add_event_handler(Events.ITERATION_COMPLETED, counter)
    return counting


class _Counter:
    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, engine: Any) -> None:
        self.num_calls += 1
