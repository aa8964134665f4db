"""The limit: the loop that a good engineer writes by hand, with nothing in it that the training doesn't need."""

from __future__ import annotations

import torch
from torch.nn.utils import clip_grad_norm_

from benchmarks.recipe import MAX_GRAD_NORM, Job, make_loader, make_optimizer, make_scheduler, write_log_line


def train(job: Job) -> None:
    """Train, and log a line every `log_every` steps."""
    model, optimizer = job.model, make_optimizer(job)
    scheduler = make_scheduler(job, optimizer)
    parameters = list(model.parameters())
    accumulation, log_every = job.setting.accumulation, job.setting.log_every
    loss_sum = torch.zeros(())
    step = 0
    model.train()
    for number, batch in enumerate(make_loader(job), 1):
        loss = model(**batch)["loss"]
        if accumulation > 1:
            loss = loss / accumulation
        loss.backward()
        loss_sum += loss.detach()
        if number % accumulation:
            continue
        norm = clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        step += 1
        if step % log_every == 0:
            rate = float(scheduler.get_last_lr()[0])
            write_log_line(step, {"loss": loss_sum.item() / log_every, "grad_norm": norm.item(), "learning_rate": rate})
            loss_sum.zero_()
