"""The training loop: epochs, updates and micro-batches, in the order that `callbacks.events` draws."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from loopwright._support.log import Logger, get_logger
from loopwright.callbacks.events import Event
from loopwright.loop.clock import Clock
from loopwright.loop.flops import FlopCounter
from loopwright.loop.lines import LogLines
from loopwright.loop.metrics import update_best, watched_metric
from loopwright.loop.pausing import Paused, PausePoint
from loopwright.loop.position import Position, Resumption
from loopwright.loop.report import LossWindow
from loopwright.loop.tokens import count_tokens
from loopwright.loop.update import Update
from loopwright.runtime.clipping import Clipper
from loopwright.runtime.wrapping import without_sync
from loopwright.state import CONTROL_FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loopwright.loop.agreement import Agreement
    from loopwright.loop.feed import Feed
    from loopwright.loop.hooks import TrainingHooks
    from loopwright.loop.plan import TrainingPlan
    from loopwright.loop.sharing import Shares

logger: Logger = get_logger(__name__)


class TrainingLoop:
    """One `train()`: goes through the plan, calling the Trainer's hooks and the callbacks.

    Arguments:
        trainer: Whose hooks do the work.
        plan: How far to go.
        feed: Gives the micro-batches.
        position: Where to begin.
        window: Sums up the losses, for `lines`.
        pause: Where the loop looks whether it should stop for a while.

    Attributes:
        agreement: Lets several processes act on the same flags; None in one process.
        shares: Weighs what each of them has of an update.
        resumption: What to put back when the data stands at `position`; None in a new training.
        saved_mark: `mark` of the newest checkpoint, or of the beginning; None where that checkpoint failed.
        is_paused: Whether the loop has stopped to be gone on with by another process.
        is_acting: Whether callbacks are asked, at a step's or an epoch's end, or what they say is acted on.
        clock: Where the time goes.
        is_whole: Whether weights and step number belong together; not so while the optimizer steps.
    """

    def __init__(  # noqa: PLR0913 -- what a training consists of
        self,
        trainer: TrainingHooks,
        plan: TrainingPlan,
        feed: Feed,
        position: Position,
        window: LossWindow,
        pause: PausePoint,
    ) -> None:
        self.trainer = trainer
        self.plan = plan
        self.feed = feed
        self.position: Position = position
        self.lines: LogLines = LogLines(trainer, window)
        self.pause = pause
        self.agreement: Agreement | None = None
        self.shares: Shares | None = None
        self.resumption: Resumption | None = None
        self.update: Update | None = None
        self.flags_to_act_on: Mapping[str, bool] | None = None
        self.saved_mark: tuple[Any, ...] | None = None
        self.is_paused: bool = False
        self.is_acting: bool = False
        self.is_whole: bool = True
        self.device: torch.device = trainer.args.device
        self.tokens_at_start: int = trainer.state.num_input_tokens_seen
        self.is_done: bool = False
        self.ignore_keys_for_eval: list[str] | None = None
        self._clipper = Clipper(())
        self.clock: Clock = Clock(trainer.callback_handler)
        self.flops: FlopCounter = FlopCounter(trainer)
        self._counted_before_update = (trainer.state.num_input_tokens_seen, trainer.state.total_flos)

    # Epochs

    def run(self) -> None:
        """Train until the plan is done, a callback stops it, or it has to pause."""
        self.clock = Clock(self.trainer.callback_handler)
        try:
            self._run_epochs()
        except Paused:
            self.is_paused = True
        except BaseException as error:
            self.lines.finish_after(error)
            # A signal to the process group ended workers where the training can't be saved as it is, in an evaluation
            # of which a line is logged: the checkpoints that there are will do.
            if not (isinstance(error, RuntimeError) and self.pause.is_asked and "DataLoader worker" in str(error)):
                raise
            self.is_paused, self.saved_mark = True, self.mark()
        self.lines.finish()

    def _run_epochs(self) -> None:
        trainer = self.trainer
        handler, args = trainer.callback_handler, trainer.args
        self.lines.start_time = time.time()
        trainer.control = handler.on_train_begin(args, trainer.state, trainer.control)
        if args.eval_on_start and self.resumption is None:
            self._evaluate_pausably(steps_scheduler=False)
        first = self.position.epoch + int(self.position.epoch_ended)
        # A finished run that is resumed has no step left; of its last epoch perhaps the end.
        self.is_done = self._is_complete()
        if self.position.epoch_ended and not self._go_on_between_epochs():
            return
        for epoch in range(first, self.plan.num_epochs):
            if epoch != self.position.epoch or self.position.epoch_ended:
                self.position = Position(epoch)
            trainer.control = handler.on_epoch_begin(args, trainer.state, trainer.control)
            self.run_epoch()
            if self.is_done or trainer.control.should_training_stop:
                break

    def _go_on_between_epochs(self) -> bool:
        """Put everything back where an epoch had ended; return whether there is another one."""
        going = self._finish_actions(self._put_back())
        return going and not self.is_done

    def run_epoch(self) -> None:
        """Go through the rest of the current epoch, then act on what callbacks said at its end."""
        trainer, position = self.trainer, self.position
        data = None if self.resumption is None else self.resumption.data
        with self.clock.taking("data"):
            self.feed.begin(position.epoch, position.batches, data)
        self.pause.signals.guard_workers()
        # Taken anew each epoch: callbacks freeze and unfreeze, and may add modules.
        self._clipper = Clipper(list(trainer.model.parameters()))
        self.flops.begin_epoch(self._clipper.parameters)
        going = self._finish_actions(self._put_back())
        cut_short = not going and self._is_cut_short()
        while going and not (self.is_done or position.is_cut) and position.batches < self.plan.batches_per_epoch:
            if not self._take_update():
                break
            if not trainer.saving.is_idle and self.agreement is None:
                with self.clock.taking("saving"):
                    trainer.saving.settle()
            going = not (trainer.control.should_epoch_stop or trainer.control.should_training_stop)
            # An epoch that a stop of the whole training cuts short goes on when the run is resumed.
            cut_short = not going and self._is_cut_short()
        if position.batches == 0 and not self.is_done:
            logger.warning("an epoch without a single batch: training stops at step %d", trainer.state.global_step)
            trainer.control.should_training_stop = True
        position.epoch_ended = not cut_short
        if position.epoch_ended:
            self.feed.end()
        self.is_acting = True
        trainer.control = trainer.callback_handler.on_epoch_end(trainer.args, trainer.state, trainer.control)
        if self.agreement is not None:
            self.agreement.settle()
        self.act()

    def _is_cut_short(self) -> bool:
        control = self.trainer.control
        has_more = self.position.batches < self.plan.batches_per_epoch
        return bool(control.should_training_stop and not control.should_epoch_stop and has_more)

    def _put_back(self) -> Mapping[str, bool] | None:
        """Put back what waited until the data stands; return the flags that are to be acted on."""
        resumption, self.resumption = self.resumption, None
        if resumption is None:
            return None
        if self.position.epoch_ended and resumption.data is not None:
            self.feed.restore_generators(resumption.data["generators"])
        resumption.restore_streams()
        self.update = resumption.update
        return resumption.flags

    def _finish_actions(self, flags: Mapping[str, bool] | None) -> bool:
        """Do what the flags still ask for, where a training was interrupted over that; return whether it goes on."""
        control = self.trainer.control
        if flags is None:
            return True
        for name in CONTROL_FLAGS:
            setattr(control, name, flags[name])
        self.act()
        control = self.trainer.control
        return not (control.should_epoch_stop or control.should_training_stop)

    # Updates

    def _take_update(self) -> bool:
        """Fetch micro-batches and do an update with them; return whether there were any."""
        self.pause.stop_here()
        trainer, begun = self.trainer, self.update
        missing = self.plan.batches_per_epoch - self.position.batches
        wanted = min(self.plan.accumulation, missing) if begun is None else begun.size - begun.done
        self.feed.begin_group()
        clock, started = self.clock, perf_counter()
        batches, num_items = trainer.get_batch_samples(self.feed, wanted, self.device)
        clock.fetched = perf_counter()
        clock.data += clock.fetched - started
        if self.shares is not None:
            self.update = self.shares.update_of(batches, self.position.batches, wants_items=num_items is not None)
            if self.update is None:
                return False
        elif not batches:
            return False
        if begun is None:
            if self.shares is None:
                self.update = Update.of(trainer, batches, num_items)
            self._counted_before_update = (trainer.state.num_input_tokens_seen, trainer.state.total_flos)
            trainer.control = trainer.callback_handler.on_step_begin(trainer.args, trainer.state, trainer.control)
        else:
            begun.batches = batches
        self.run_update()
        return True

    def run_update(self) -> None:
        """Do the optimizer update of `update`; cut short where a callback stops inside it."""
        trainer = self.trainer
        handler, args, state = trainer.callback_handler, trainer.args, trainer.state
        clock = self.clock
        loss = self._accumulate()
        computed = perf_counter()
        clock.forward_backward += computed - clock.fetched
        if loss is None:
            return
        self._step_optimizer()
        clock.optimizer += perf_counter() - computed
        self.lines.window.add(loss)
        state.global_step += 1
        state.epoch = self.position.epoch + self.position.batches / self.plan.batches_per_epoch
        self.is_whole = self.is_acting = True
        self.update = None
        trainer.control = handler.on_step_end(args, state, trainer.control)
        if self.agreement is not None:
            self.agreement.at_step_end()
        control = trainer.control
        self.position.is_cut = control.should_epoch_stop
        if control.should_log or control.should_evaluate or control.should_save:
            self.act()
        self.lines.make_arrived()
        self.is_acting = False

    def _accumulate(self) -> torch.Tensor | None:
        """Return the update's loss, its gradients being there; None where a callback said stop before the last one."""
        trainer, update, feed = self.trainer, self.update, self.feed
        if update is None:
            return None
        size, num_items = update.size, update.num_items
        trainer.current_gradient_accumulation_steps = size
        trainer.current_update = update
        counted = trainer.args.include_num_input_tokens_seen if self.shares is None else "no"
        for inputs in update.batches:
            if counted != "no":
                trainer.state.num_input_tokens_seen += count_tokens(trainer, inputs, only_real=counted == "non_padding")
            with self.flops.counting(inputs) if self.shares is None else self._among_others(inputs, update):
                update.add(trainer.training_step(trainer.model_wrapped, inputs, num_items))
            feed.used += 1
            self.position.batches += 1
            if update.done < size:
                control = trainer.callback_handler.on_substep_end(trainer.args, trainer.state, trainer.control)
                trainer.control = control
                if control.should_epoch_stop or control.should_training_stop:
                    self.update = trainer.current_update = None
                    return None
                if self.pause.is_asked and feed.can_save_pending():
                    raise Paused
        trainer.current_update = None
        return update.loss

    @contextmanager
    def _among_others(self, inputs: Any, update: Update) -> Iterator[None]:
        """Keep gradients to this process, inside, but for an update's last micro-batch."""
        is_last = update.done + 1 == update.size
        with self.flops.counting(inputs), nullcontext() if is_last else without_sync(self.trainer.model_wrapped):
            yield

    def _step_optimizer(self) -> None:
        trainer = self.trainer
        handler, args, state, optimizer = trainer.callback_handler, trainer.args, trainer.state, trainer.optimizer
        precision = trainer.precision
        if args.max_grad_norm > 0:
            precision.unscale(optimizer)
            self.lines.grad_norm = self._clipper.clip(args.max_grad_norm)
        trainer.control = handler.on_pre_optimizer_step(args, state, trainer.control)
        self.is_whole = False
        if not trainer.saving.is_idle:
            trainer.saving.fence()
        stepped = precision.step(optimizer)
        trainer.control = handler.on_optimizer_step(args, state, trainer.control)
        self.lines.learning_rate = optimizer.param_groups[0]["lr"]
        if stepped and not isinstance(trainer.lr_scheduler, ReduceLROnPlateau):
            trainer.lr_scheduler.step()
        for parameter in self._clipper.parameters:
            parameter.grad = None

    # Acting on flags

    def act(self) -> None:
        """Log, evaluate and save, as the control flags say."""
        trainer = self.trainer
        self.is_acting = True
        if trainer.control.should_log and trainer.state.global_step > self.lines.last_step:
            self._log()
        if trainer.control.should_evaluate or trainer.control.should_save:
            self.lines.finish()
        if trainer.control.should_evaluate:
            metrics = self._evaluate_pausably()
            if self.agreement is not None:
                self.agreement.settle()
            is_best = update_best(trainer.args, trainer.state, metrics)
            if trainer.args.save_strategy == "best":
                trainer.control.should_save = is_best
        if trainer.control.should_save:
            with self.clock.taking("saving"):
                trainer.saving.save_and_tell()
            trainer.reporting.note_costs(self.clock.account())
        self.is_acting = False

    def _log(self) -> None:
        clock, handler = self.clock, self.trainer.callback_handler
        spent, started = handler.seconds(Event.LOG), perf_counter()
        self.lines.make()
        clock.logging += perf_counter() - started - (handler.seconds(Event.LOG) - spent)

    def _evaluate_pausably(self, *, steps_scheduler: bool = True) -> dict[str, float]:
        """Evaluate; where the loop has to pause meanwhile, as if the evaluation had not been begun."""
        flags = self._flags()
        with self.pause.in_evaluation(lambda: len(self.trainer.state.log_history)):
            try:
                with self.clock.taking("evaluation"):
                    return self.evaluate(steps_scheduler=steps_scheduler)
            except Paused:
                self.flags_to_act_on = flags
                raise

    def evaluate(self, *, steps_scheduler: bool = True) -> dict[str, float]:
        """Evaluate, and let a scheduler that waits for a metric have it."""
        trainer = self.trainer
        metrics = trainer.evaluate(ignore_keys=self.ignore_keys_for_eval)
        if trainer.search is not None:
            trainer.search.judge(metrics)
        if steps_scheduler and isinstance(trainer.lr_scheduler, ReduceLROnPlateau):
            trainer.lr_scheduler.step(watched_metric(trainer.args, metrics))
        return metrics

    # Where it is

    def state(self) -> dict[str, Any]:
        """Return where this loop is, JSON-able and exact, for a checkpoint."""
        return {
            "position": vars(self.position).copy(),
            **self.lines.state(),
            "flops": self.flops.state(),
            "flags": self.flags_to_act_on,
            "stops": self.trainer.control.should_training_stop and not self._is_complete(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; the position was given at construction."""
        self.lines.load_state(state)
        if "flops" in state:
            self.flops.load_state(state["flops"])

    def _is_complete(self) -> bool:
        return self.trainer.state.global_step >= self.plan.max_steps

    def mark(self) -> tuple[Any, ...]:
        """Return what tells one state of the loop from another: nothing has been trained where it is the same."""
        flags = self.flags_to_act_on
        position = vars(self.position)
        return (self.trainer.state.global_step, *position.values(), None if flags is None else tuple(flags.values()))

    def _flags(self) -> dict[str, bool]:
        return {name: getattr(self.trainer.control, name) for name in CONTROL_FLAGS}

    def rewind(self) -> None:
        """After an exception: whatever was begun and not finished is to be done from its beginning."""
        if self.is_acting:
            self.flags_to_act_on = self._flags()
        if self.update is not None:
            self.position.batches -= self.feed.used
            self.feed.used = 0
            self.update = None
            state = self.trainer.state
            state.num_input_tokens_seen, state.total_flos = self._counted_before_update
