"""The training loop: epochs, updates and micro-batches, in the order that `callbacks.events` draws."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from loopwright._support.log import get_logger
from loopwright.data.loaders import begin_epoch, iterate_from
from loopwright.loop.loss import microbatch_weights
from loopwright.loop.metrics import update_best, watched_metric
from loopwright.loop.report import LossWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from loopwright.loop.hooks import TrainingHooks
    from loopwright.loop.plan import TrainingPlan

logger = get_logger(__name__)


@dataclass
class Position:
    """Where in the data a training is.

    Attributes:
        epoch: Index of the epoch, counted from 0.
        batches: Micro-batches of it that have been used.
        is_cut: Whether a callback has ended it before its last batch.
        epoch_ended: Whether its `on_epoch_end` has been called too.
    """

    epoch: int = 0
    batches: int = 0
    is_cut: bool = False
    epoch_ended: bool = False


class TrainingLoop:
    """One `train()`: goes through the plan, calling the Trainer's hooks and the callbacks.

    Arguments:
        trainer: Whose hooks do the work.
        plan: How far to go.
        loader: Gives the micro-batches.
        position: Where to begin.
        window: Sums up the losses.

    Attributes:
        after_fast_forward: Called once, when the data stands at `position`: puts the random states back.
    """

    def __init__(
        self,
        trainer: TrainingHooks,
        plan: TrainingPlan,
        loader: Any,
        position: Position,
        window: LossWindow,
    ) -> None:
        self.trainer = trainer
        self.plan = plan
        self.loader = loader
        self.position = position
        self.window = window
        self.after_fast_forward: Callable[[], None] | None = None
        self.device = trainer.args.device
        self.start_time = time.time()
        self.last_logged_step = trainer.state.global_step
        self.tokens_at_start = trainer.state.num_input_tokens_seen
        self.grad_norm: Any = None
        self.learning_rate: float | None = None
        self.is_done = False
        self.ignore_keys_for_eval: list[str] | None = None
        self._parameters: list[torch.nn.Parameter] = []

    def run(self) -> None:
        """Train until the plan is done or a callback stops it."""
        trainer = self.trainer
        handler, args = trainer.callback_handler, trainer.args
        self.start_time = time.time()
        trainer.control = handler.on_train_begin(args, trainer.state, trainer.control)
        if args.eval_on_start:
            self.evaluate(steps_scheduler=False)
        first = self.position.epoch + int(self.position.epoch_ended)
        # A finished run that is resumed has no step left; of its last epoch perhaps the end.
        self.is_done = trainer.state.global_step >= self.plan.max_steps
        if self.is_done and self.position.epoch_ended:
            return
        for epoch in range(first, self.plan.num_epochs):
            if epoch != self.position.epoch or self.position.epoch_ended:
                self.position = Position(epoch)
            trainer.control = handler.on_epoch_begin(args, trainer.state, trainer.control)
            self.run_epoch()
            if trainer.control.should_training_stop:
                break

    def run_epoch(self) -> None:
        """Go through the rest of the current epoch, then act on what callbacks said at its end."""
        trainer = self.trainer
        batches = self._fast_forwarded()
        # Taken anew each epoch: callbacks freeze and unfreeze, and may add modules.
        self._parameters = list(trainer.model.parameters())
        cut_short = False
        while not (self.is_done or self.position.is_cut) and self.position.batches < self.plan.batches_per_epoch:
            wanted = min(self.plan.accumulation, self.plan.batches_per_epoch - self.position.batches)
            group, num_items = trainer.get_batch_samples(batches, wanted, self.device)
            if not group:
                break
            self.run_update(group, num_items)
            if trainer.control.should_epoch_stop:
                break
            # An epoch that a stop of the whole training cuts short goes on when the run is resumed.
            cut_short = trainer.control.should_training_stop and self.position.batches < self.plan.batches_per_epoch
            if trainer.control.should_training_stop:
                break
        if self.position.batches == 0 and not self.is_done:
            logger.warning("an epoch without a single batch: training stops at step %d", trainer.state.global_step)
            trainer.control.should_training_stop = True
        self.position.epoch_ended = not cut_short
        trainer.control = trainer.callback_handler.on_epoch_end(trainer.args, trainer.state, trainer.control)
        self.act()

    def _fast_forwarded(self) -> Iterator[Any]:
        begin_epoch(self.loader, self.position.epoch)
        batches = iterate_from(self.loader, self.position.batches, on_skip=self._say_skipped)
        if self.after_fast_forward is not None:
            self.after_fast_forward()
            self.after_fast_forward = None
        return batches

    def _say_skipped(self, done: int, total: int) -> None:
        if done == total or done % max(total // 10, 1) == 0:
            logger.warning("reading past the batches that were trained on already: %d of %d", done, total)

    def run_update(self, group: list[Any], num_items: Any) -> None:
        """Do one optimizer update on a group of micro-batches; cut short where a callback stops inside it."""
        trainer = self.trainer
        handler, args, state = trainer.callback_handler, trainer.args, trainer.state
        trainer.control = handler.on_step_begin(args, state, trainer.control)
        loss = self._accumulate(group, num_items)
        if loss is None:
            return
        self.window.add(loss)
        self._step_optimizer()
        state.global_step += 1
        state.epoch = self.position.epoch + self.position.batches / self.plan.batches_per_epoch
        trainer.control = handler.on_step_end(args, state, trainer.control)
        control = trainer.control
        self.position.is_cut = control.should_epoch_stop
        if control.should_log or control.should_evaluate or control.should_save:
            self.act()

    def _accumulate(self, group: list[Any], num_items: Any) -> torch.Tensor | None:
        """Return the update's loss, its gradients being there; None where a callback said stop before the last one."""
        trainer = self.trainer
        trainer.current_gradient_accumulation_steps = len(group)
        weights = microbatch_weights(group, shifted=trainer.labels_are_shifted)
        total: torch.Tensor | None = None
        last = len(group) - 1
        for index, inputs in enumerate(group):
            trainer.microbatch_weight = weights[index]
            loss = trainer.training_step(trainer.model_wrapped, inputs, num_items)
            total = loss if total is None else total + loss
            self.position.batches += 1
            if index != last:
                control = trainer.callback_handler.on_substep_end(trainer.args, trainer.state, trainer.control)
                trainer.control = control
                if control.should_epoch_stop or control.should_training_stop:
                    return None
        return total

    def _step_optimizer(self) -> None:
        trainer = self.trainer
        handler, args, state, optimizer = trainer.callback_handler, trainer.args, trainer.state, trainer.optimizer
        precision = trainer.precision
        if args.max_grad_norm > 0:
            precision.unscale(optimizer)
            self.grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, args.max_grad_norm)
        trainer.control = handler.on_pre_optimizer_step(args, state, trainer.control)
        stepped = precision.step(optimizer)
        trainer.control = handler.on_optimizer_step(args, state, trainer.control)
        self.learning_rate = optimizer.param_groups[0]["lr"]
        if stepped and not isinstance(trainer.lr_scheduler, ReduceLROnPlateau):
            trainer.lr_scheduler.step()
        for parameter in self._parameters:
            parameter.grad = None

    def act(self) -> None:
        """Log, evaluate and save, as the control flags say."""
        trainer = self.trainer
        if trainer.control.should_log and trainer.state.global_step > self.last_logged_step:
            self.log()
        if trainer.control.should_evaluate:
            metrics = self.evaluate()
            is_best = update_best(trainer.args, trainer.state, metrics)
            if trainer.args.save_strategy == "best":
                trainer.control.should_save = is_best
        if trainer.control.should_save:
            trainer.save_checkpoint()
            trainer.control = trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)

    def log(self) -> None:
        """Make the log line of the steps since the last one."""
        logs = self.window.close()
        if self.grad_norm is not None:
            logs["grad_norm"] = float(self.grad_norm)
        learning_rate = self.learning_rate
        logs["learning_rate"] = self.trainer.optimizer.param_groups[0]["lr"] if learning_rate is None else learning_rate
        self.last_logged_step = self.trainer.state.global_step
        self.trainer.log(logs, self.start_time)

    def state(self) -> dict[str, Any]:
        """Return where this loop is, JSON-able and exact, for a checkpoint."""
        return {
            "position": vars(self.position).copy(),
            "loss_window": self.window.state(),
            "last_logged_step": self.last_logged_step,
            "grad_norm": None if self.grad_norm is None else float(self.grad_norm),
            "learning_rate": self.learning_rate,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; the position was given at construction."""
        self.window.load_state(state["loss_window"])
        self.last_logged_step = state["last_logged_step"]
        self.grad_norm = state["grad_norm"]
        self.learning_rate = state["learning_rate"]

    def evaluate(self, *, steps_scheduler: bool = True) -> dict[str, float]:
        """Evaluate, and let a scheduler that waits for a metric have it."""
        trainer = self.trainer
        metrics = trainer.evaluate(ignore_keys=self.ignore_keys_for_eval)
        if steps_scheduler and isinstance(trainer.lr_scheduler, ReduceLROnPlateau):
            trainer.lr_scheduler.step(watched_metric(trainer.args, metrics))
        return metrics
