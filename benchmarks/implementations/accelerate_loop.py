"""The loop by hand with accelerate in it, as its documentation writes it, and tqdm for the bar."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from benchmarks.recipe import MAX_GRAD_NORM, Job, make_loader, make_optimizer, make_scheduler, write_log_line


def train(job: Job) -> None:
    """Train."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=job.setting.accumulation)
    optimizer = make_optimizer(job)
    model, optimizer, scheduler, loader = accelerator.prepare(
        job.model, optimizer, make_scheduler(job, optimizer), make_loader(job)
    )
    bar = tqdm(total=job.steps, disable=not job.setting.bar)
    log_every = job.setting.log_every
    loss_sum = torch.zeros(())
    num_micro_batches = step = 0
    model.train()
    for batch in loader:
        with accelerator.accumulate(model):
            loss = model(**batch)["loss"]
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        loss_sum += loss.detach()
        num_micro_batches += 1
        if not accelerator.sync_gradients:
            continue
        step += 1
        bar.update(1)
        if step % log_every == 0:
            rate = float(scheduler.get_last_lr()[0])
            mean = loss_sum.item() / num_micro_batches
            write_log_line(step, {"loss": mean, "grad_norm": norm.item(), "learning_rate": rate})
            loss_sum.zero_()
            num_micro_batches = 0
    bar.close()
