"""Lightning's Trainer, as its documentation writes it: `self.log` in the training step, a logger, the default bar.

It logs the loss of the last batch alone, so it does less per log line than the others.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger

from benchmarks.recipe import (
    MAX_GRAD_NORM,
    Job,
    check_counts,
    make_loader,
    make_optimizer,
    make_scheduler,
    write_log_line,
)


class TerminalLogger(Logger):
    """Writes a line per log, as the other implementations do."""

    name = "terminal"
    version = "0"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write the line."""
        write_log_line(step or 0, {name: value for name, value in metrics.items() if name != "epoch"})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Leave them out."""


class Module(LightningModule):
    """The job's model with its optimizer and schedule."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.model = job.model
        self.job = job

    def training_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> torch.Tensor:
        """Return the batch's loss."""
        loss: torch.Tensor = self.model(**batch)["loss"]
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Return optimizer and schedule."""
        optimizer = make_optimizer(self.job)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": make_scheduler(self.job, optimizer), "interval": "step"},
        }


def train(job: Job) -> None:
    """Train."""
    # Each of a class of its own, as in a real program.
    idle = [type(f"Idle{number}", (Callback,), {})() for number in range(job.setting.idle_callbacks)]
    counting = [
        type(f"Counter{number}", (Callback,), {"num_calls": 0, "on_train_batch_end": _count})()
        for number in range(job.setting.listening_callbacks)
    ]
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        max_steps=job.steps,
        accumulate_grad_batches=job.setting.accumulation,
        gradient_clip_val=MAX_GRAD_NORM,
        log_every_n_steps=job.setting.log_every,
        logger=TerminalLogger(),
        callbacks=idle + counting,
        enable_progress_bar=job.setting.bar,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=job.output_dir,
    )
    trainer.fit(Module(job), make_loader(job))
    check_counts(counting, job.steps * job.setting.accumulation)


def _count(self: Any, *args: Any) -> None:
    self.num_calls += 1
