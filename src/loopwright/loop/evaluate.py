"""The loop that evaluation and prediction share: linear in time, outputs held once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from loopwright._support.log import Logger, get_logger
from loopwright.data.columns import main_input_name
from loopwright.data.drawing import drawer
from loopwright.data.loaders import find_batch_size, has_length
from loopwright.data.waiting import end_workers, poll_while_waiting
from loopwright.loop.gather import OutputCollector
from loopwright.loop.metric_objects import BatchwiseMetric, is_metric_object
from loopwright.loop.metrics import plain_values, with_prefix
from loopwright.loop.pausing import Paused
from loopwright.outputs import EvalLoopOutput, EvalPrediction

if TYPE_CHECKING:
    from loopwright.loop.hooks import TrainingHooks

logger: Logger = get_logger(__name__)


class EvaluationLoop:
    """One pass over a loader: predictions, labels, losses, and the metrics made of them.

    Arguments:
        trainer: Whose `prediction_step` and `compute_metrics` do the work.
        prediction_loss_only: Whether to keep losses alone.
        ignore_keys: Outputs of the model to leave out.
        prefix: Begins the metrics' names.
        for_prediction: Whether predictions are handed back whatever `batch_eval_metrics` says.
    """

    def __init__(
        self,
        trainer: TrainingHooks,
        *,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None,
        prefix: str,
        for_prediction: bool,
    ) -> None:
        self.trainer = trainer
        self.prediction_loss_only = prediction_loss_only
        self.ignore_keys = ignore_keys
        self.prefix = prefix
        args = trainer.args
        measure = trainer.compute_metrics
        self.metric: BatchwiseMetric | None = (
            BatchwiseMetric(measure, args.device) if is_metric_object(measure) else None
        )
        self.keeps_outputs: bool = for_prediction or not (args.batch_eval_metrics or self.metric is not None)
        self.wants_inputs: bool = "inputs" in args.include_for_metrics
        self.losses: _Losses = _Losses()
        self.sizes: list[int] = []
        self.predictions, self.labels, self.inputs = self.collectors = [
            OutputCollector(concatenate=args.eval_do_concat_batches, directory=args.eval_spill_dir) for _ in range(3)
        ]
        self.batches: Any = ()
        self.metrics: dict[str, Any] | None = None

    def run(self, model: torch.nn.Module, loader: Any) -> EvalLoopOutput:
        """Go through `loader` and return predictions, labels, metrics and the number of examples."""
        trainer = self.trainer
        was_training = model.training
        model.eval()
        trainer.callback_handler.eval_dataloader = loader
        dataset: Any = getattr(loader, "dataset", None)
        if has_length(dataset):
            for collector in self.collectors:
                collector.num_rows = len(dataset)
        try:
            self._go_through(model, loader)
        except Paused:
            end_workers(self.batches)
            raise
        finally:
            if trainer.is_in_train and was_training:
                model.train()
        return self._output(dataset)

    def _go_through(self, model: torch.nn.Module, loader: Any) -> None:
        trainer, args = self.trainer, self.trainer.args
        pause = trainer.training_loop.pause if trainer.is_in_train and trainer.training_loop is not None else None
        batches = self.batches = iter(loader)
        if pause is not None:
            pause.signals.guard_workers()
            poll_while_waiting(batches, pause.stop_in_evaluation)
        draw = drawer(batches)
        inputs = _next_or_none(draw)
        step = 0
        while inputs is not None:
            # One batch ahead, because compute_metrics of batch_eval_metrics must know the last one.
            following = _next_or_none(draw)
            self._take(model, inputs, is_last=following is None)
            trainer.control = trainer.callback_handler.on_prediction_step(args, trainer.state, trainer.control)
            step += 1
            if args.eval_accumulation_steps is not None and step % args.eval_accumulation_steps == 0:
                self._move_to_cpu()
            if pause is not None:
                pause.stop_in_evaluation()
            inputs = following

    def _take(self, model: torch.nn.Module, inputs: Any, *, is_last: bool) -> None:
        trainer = self.trainer
        size = find_batch_size(inputs) or 1
        self.sizes.append(size)
        loss, logits, labels = trainer.prediction_step(
            model, inputs, self.prediction_loss_only, ignore_keys=self.ignore_keys
        )
        main_input = self._main_input(inputs) if self.wants_inputs else None
        if logits is not None and trainer.preprocess_logits_for_metrics is not None:
            logits = trainer.preprocess_logits_for_metrics(logits, labels)
        if loss is not None:
            self.losses.add(loss)
        if self.keeps_outputs:
            for collector, value in zip(self.collectors, (logits, labels, main_input), strict=True):
                if value is not None:
                    collector.add(value)
        if self.metric is not None:
            if logits is not None and labels is not None:
                self.metric.update(logits, labels)
        elif trainer.args.batch_eval_metrics and trainer.compute_metrics is not None:
            self._measure_batch(loss, logits, labels, main_input, is_last=is_last)

    def _main_input(self, inputs: Any) -> Any:
        name = main_input_name(self.trainer.model)
        return self.trainer._prepare_input(inputs[name]) if isinstance(inputs, Mapping) and name in inputs else None

    def _measure_batch(self, loss: Any, logits: Any, labels: Any, main_input: Any, *, is_last: bool) -> None:
        if logits is None or labels is None:
            return
        wants_loss = "loss" in self.trainer.args.include_for_metrics
        batch = EvalPrediction(logits, labels, inputs=main_input, losses=loss if wants_loss else None)
        self.metrics = self.trainer.compute_metrics(batch, compute_result=is_last)

    def _move_to_cpu(self) -> None:
        self.losses.to_cpu()
        for collector in self.collectors:
            collector.to_cpu()

    def _output(self, dataset: Any) -> EvalLoopOutput:
        trainer = self.trainer
        predictions, labels, inputs = self.predictions.arrays(), self.labels.arrays(), self.inputs.arrays()
        losses = self.losses.per_example(self.sizes)
        is_measured_whole = trainer.compute_metrics is not None and not trainer.args.batch_eval_metrics
        if self.metric is not None:
            self.metrics = self.metric.values()
        elif is_measured_whole and predictions is not None and labels is not None:
            kept = losses if "loss" in trainer.args.include_for_metrics else None
            self.metrics = trainer.compute_metrics(EvalPrediction(predictions, labels, inputs=inputs, losses=kept))
        metrics = plain_values(dict(self.metrics or {}))
        metrics.update(self._loss_metrics(losses))
        num_samples = len(dataset) if has_length(dataset) else sum(self.sizes)
        return EvalLoopOutput(predictions, labels, with_prefix(metrics, self.prefix), num_samples)

    def _loss_metrics(self, losses: np.ndarray[Any, Any] | None) -> dict[str, Any]:
        """Return the mean loss over examples; non-finite ones are left out only as the filter says, and counted."""
        if losses is None:
            return {}
        finite = np.isfinite(losses)
        num_nonfinite = int(losses.size - finite.sum())
        kept = losses[finite] if self.trainer.args.logging_nan_inf_filter and finite.any() else losses
        entries: dict[str, Any] = {f"{self.prefix}_loss": kept.mean().item()}
        if num_nonfinite:
            entries[f"{self.prefix}_nonfinite_losses"] = num_nonfinite
        return entries


class _Losses:
    """The batches' losses, on their device: some hundred at a time become one tensor.

    Each tensor is an object that Python's garbage collector goes through again and again.
    """

    _AT_ONCE = 256

    def __init__(self) -> None:
        self._single: list[torch.Tensor] = []
        self._together: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor) -> None:
        if not loss.is_cpu:
            loss = loss.detach().to(torch.float32, copy=True)  # its memory may serve the next batch, with CUDA graphs
        elif loss.dtype is not torch.float32 or loss.requires_grad:
            loss = loss.detach().float()
        self._single.append(loss)
        if len(self._single) == self._AT_ONCE:
            self._close()

    def _close(self) -> None:
        if self._single:
            self._together.append(torch.stack(self._single))
            self._single = []

    def to_cpu(self) -> None:
        self._close()
        self._together = [losses.cpu() for losses in self._together]

    def per_example(self, sizes: list[int]) -> np.ndarray[Any, Any] | None:
        """Return each batch's loss as many times as its size, of `sizes`, says; None where there is none."""
        self._close()
        return np.repeat(torch.cat(self._together).cpu().numpy(), sizes) if self._together else None


def _next_or_none(draw: Callable[[], Any]) -> Any:
    try:
        return draw()
    except StopIteration:
        return None
