"""The loop that evaluation and prediction share: linear in time, outputs held once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from loopwright._support.log import Logger, get_logger
from loopwright.data.columns import main_input_name
from loopwright.data.drawing import drawer
from loopwright.data.loaders import find_batch_size, has_length
from loopwright.data.waiting import end_workers, poll_while_waiting
from loopwright.loop.assembling import Rounds, assemble, in_turn
from loopwright.loop.company import Company
from loopwright.loop.gather import OutputCollector
from loopwright.loop.metric_objects import BatchwiseMetric, is_metric_object
from loopwright.loop.metrics import plain_values, with_prefix
from loopwright.loop.pausing import Paused
from loopwright.outputs import EvalLoopOutput, EvalPrediction
from loopwright.runtime.wrapping import is_sharded, shared_buffers

if TYPE_CHECKING:
    from loopwright.loop.hooks import TrainingHooks

logger: Logger = get_logger(__name__)

_Array = np.ndarray[Any, Any]


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
        self.for_prediction = for_prediction
        self.losses: _Losses = _Losses()
        self.sizes: list[int] = []
        self.predictions, self.labels, self.inputs = self.collectors = [
            OutputCollector(
                concatenate=args.eval_do_concat_batches,
                directory=args.eval_spill_dir,
                is_part=trainer.ranks.are_many,
            )
            for _ in range(3)
        ]
        self.batches: Any = ()
        self.metrics: dict[str, Any] | None = None
        measures_batches = args.batch_eval_metrics and measure is not None and self.metric is None
        measures_rounds = measures_batches and trainer.ranks.are_many
        self.rounds = Rounds(trainer.ranks, self._measure_brought) if measures_rounds else None

    def run(self, model: torch.nn.Module, loader: Any) -> EvalLoopOutput:
        """Go through `loader` and return predictions, labels, metrics and the number of examples.

        Of several processes each goes through its own batches. The first alone gets all outputs, and measures; the
        others get the metrics, and in a prediction the outputs too.

        Raises:
            RankFailed: another process failed.
        """
        trainer = self.trainer
        was_training = model.training
        model.eval()
        trainer.callback_handler.eval_dataloader = loader
        dataset: Any = getattr(loader, "dataset", None)
        num_rows = len(dataset) if has_length(dataset) else None
        if num_rows is not None:
            for collector in self.collectors:
                collector.num_rows = math.ceil(num_rows / trainer.ranks.size)
        # In a training its session sees to it.
        with contextlib.nullcontext() if trainer.is_in_train else trainer.ranks.failing_together():
            try:
                trainer.ranks.spread(shared_buffers(trainer.model_wrapped))
                self._go_through(model, loader)
            except Paused:
                end_workers(self.batches)
                raise
            finally:
                if trainer.is_in_train and was_training:
                    model.train()
            whole = self._alone(num_rows) if not trainer.ranks.are_many else self._of_all(num_rows)
        # An error in there is known to all, who stay together.
        metrics, num_samples = trainer.ranks.of_first(lambda: (self._measure(whole), whole.num_samples))
        return EvalLoopOutput(whole.predictions, whole.labels, metrics, num_samples)

    def _go_through(self, model: torch.nn.Module, loader: Any) -> None:
        trainer, args = self.trainer, self.trainer.args
        pause = trainer.training_loop.pause if trainer.is_in_train and trainer.training_loop is not None else None
        if trainer.ranks.are_many:  # one that pauses in here would leave the others waiting
            pause = None
        batches = self.batches = iter(loader)
        if pause is not None:
            pause.signals.guard_workers()
            poll_while_waiting(batches, pause.stop_in_evaluation)
        draw = drawer(batches)
        inputs = _next_or_none(draw)
        # A forward of a sharded model is all processes': who has had its batches goes along with the others.
        company = Company(trainer.ranks, inputs) if is_sharded(model) else None
        step = 0
        while inputs is not None:
            # One batch ahead, because compute_metrics of batch_eval_metrics must know the last one.
            following = _next_or_none(draw)
            if company is not None:
                company.go_on(inputs)
            self._take(model, inputs, is_last=following is None)
            trainer.control = trainer.callback_handler.on_prediction_step(args, trainer.state, trainer.control)
            step += 1
            if args.eval_accumulation_steps is not None and step % args.eval_accumulation_steps == 0:
                self._move_to_cpu()
            if pause is not None:
                pause.stop_in_evaluation()
            inputs = following
        if company is not None:
            company.go_along(lambda stand_in: self._go_along(model, stand_in))
        if self.rounds is not None:
            self.rounds.finish()

    def _go_along(self, model: torch.nn.Module, stand_in: Any) -> None:
        self.trainer.prediction_step(model, stand_in, self.prediction_loss_only, ignore_keys=self.ignore_keys)
        if self.rounds is not None:
            self.rounds.come([], has_following=False)

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
            self._measure_batch((logits, labels, main_input, loss), is_last=is_last)

    def _main_input(self, inputs: Any) -> Any:
        name = main_input_name(self.trainer.model)
        return self.trainer._prepare_input(inputs[name]) if isinstance(inputs, Mapping) and name in inputs else None

    def _measure_batch(self, batch: tuple[Any, ...], *, is_last: bool) -> None:
        is_measured = batch[0] is not None and batch[1] is not None
        if self.rounds is not None:
            self.rounds.come([batch] if is_measured else [], has_following=not is_last)
        elif is_measured:
            self._measure_brought(batch, is_last)

    def _measure_brought(self, batch: tuple[Any, ...], is_last: bool) -> None:
        trainer = self.trainer
        if trainer.ranks.are_many:
            batch = trainer._prepare_input(batch)
        logits, labels, main_input, loss = batch
        wants_loss = "loss" in trainer.args.include_for_metrics
        prediction = EvalPrediction(logits, labels, inputs=main_input, losses=loss if wants_loss else None)
        self.metrics = trainer.compute_metrics(prediction, compute_result=is_last)

    def _move_to_cpu(self) -> None:
        self.losses.to_cpu()
        for collector in self.collectors:
            collector.to_cpu()

    def _alone(self, num_rows: int | None) -> _Whole:
        """Return what this process has, which is all."""
        predictions, labels, inputs = (collector.arrays() for collector in self.collectors)
        losses = self.losses.per_example(self.sizes)
        return _Whole(predictions, labels, inputs, losses, sum(self.sizes) if num_rows is None else num_rows)

    def _of_all(self, num_rows: int | None) -> _Whole:
        """Return what all processes have: to the first, and of a prediction the outputs to each."""
        ranks = self.trainer.ranks
        if self.metric is not None:
            self.metric.merge(ranks)
        predictions, labels = (
            assemble(ranks, collector, num_rows=num_rows, to_all=self.for_prediction)
            for collector in (self.predictions, self.labels)
        )
        inputs = assemble(ranks, self.inputs, num_rows=num_rows, to_all=False)
        # A few bytes a batch.
        losses, sizes = _apart(ranks.gather((self.losses.all(), self.sizes)))
        num_samples = sum(sizes)
        if num_rows is not None:
            _warn_of_doubles(num_samples, num_rows, ranks.size)
            num_samples = num_rows
        return _Whole(predictions, labels, inputs, _per_example(losses, sizes), num_samples)

    def _measure(self, whole: _Whole) -> dict[str, Any]:
        trainer = self.trainer
        is_measured_whole = trainer.compute_metrics is not None and not trainer.args.batch_eval_metrics
        if self.rounds is not None and self.rounds.error is not None:
            raise self.rounds.error
        if self.metric is not None:
            self.metrics = self.metric.values()
        elif is_measured_whole and whole.predictions is not None and whole.labels is not None:
            kept = whole.losses if "loss" in trainer.args.include_for_metrics else None
            prediction = EvalPrediction(whole.predictions, whole.labels, inputs=whole.inputs, losses=kept)
            self.metrics = trainer.compute_metrics(prediction)
        metrics = plain_values(dict(self.metrics or {}))
        metrics.update(self._loss_metrics(whole.losses))
        return with_prefix(metrics, self.prefix)

    def _loss_metrics(self, losses: _Array | None) -> dict[str, Any]:
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

    def all(self) -> _Array | None:
        """Return the batches' losses; None where there is none."""
        self._close()
        return torch.cat(self._together).cpu().numpy() if self._together else None

    def per_example(self, sizes: list[int]) -> _Array | None:
        """Return each batch's loss as many times as its size, of `sizes`, says; None where there is none."""
        return _per_example(self.all(), sizes)


class _Whole(NamedTuple):
    """What an evaluation has come to: arrays of all examples, None where there are none, and the number of examples."""

    predictions: Any
    labels: Any
    inputs: Any
    losses: _Array | None
    num_samples: int


def _apart(found: list[tuple[_Array | None, list[int]]] | None) -> tuple[_Array | None, list[int]]:
    """Return the losses and sizes of the batches of all processes, in the order of one."""
    if found is None:
        return None, []
    losses = list(in_turn([[] if losses is None else losses.tolist() for losses, _ in found]))
    return np.array(losses, np.float32) if losses else None, list(in_turn([sizes for _, sizes in found]))


def _per_example(losses: _Array | None, sizes: list[int]) -> _Array | None:
    return None if losses is None else np.repeat(losses, sizes)


def _warn_of_doubles(num_samples: int, num_rows: int, num_processes: int) -> None:
    if num_samples > num_rows:
        logger.warning(
            "%d processes have evaluated %d examples of a dataset of %d: metrics count some of them more than once. A "
            "loader of your own has to give each process its part; those of get_eval_dataloader do",
            num_processes,
            num_samples,
            num_rows,
        )


def _next_or_none(draw: Callable[[], Any]) -> Any:
    try:
        return draw()
    except StopIteration:
        return None
