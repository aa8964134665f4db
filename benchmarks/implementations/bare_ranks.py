"""The limit in several processes: the bare loop around DistributedDataParallel, each with its part of the data."""

from __future__ import annotations

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, DistributedSampler

from benchmarks.recipe import MAX_GRAD_NORM, SEED, Job, collate, make_optimizer, make_scheduler, write_log_line


def train(job: Job) -> None:
    """Train, and log a line of this process's own loss every `log_every` steps."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    model = DistributedDataParallel(job.model, gradient_as_bucket_view=True)
    optimizer = make_optimizer(job)
    scheduler = make_scheduler(job, optimizer)
    parameters = list(model.parameters())
    sampler = DistributedSampler(job.dataset, shuffle=job.setting.shuffle, seed=SEED)
    loss_sum, log_every = 0.0, job.setting.log_every
    model.train()
    for step, batch in enumerate(DataLoader(job.dataset, job.batch_size, sampler=sampler, collate_fn=collate), 1):
        loss = model(**batch)["loss"]
        loss.backward()
        norm = clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        loss_sum += loss.item()
        if step % log_every == 0:
            rate = float(scheduler.get_last_lr()[0])
            write_log_line(step, {"loss": loss_sum / log_every, "grad_norm": norm.item(), "learning_rate": rate})
            loss_sum = 0.0
