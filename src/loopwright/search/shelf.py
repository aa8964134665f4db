"""Keep a Trainer as it was before a search, begin each trial from there, and put it back in the end.

Not kept is the model: `model_init` makes a new one for each trial, and a second one may not fit beside it. The Trainer
is left with the last trial's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopwright.callbacks.persistence import capture_states, restore_states
from loopwright.runtime.precision import choose_precision

if TYPE_CHECKING:
    from loopwright.search.hooks import SearchHooks


class Shelf:
    """A context in which `trainer` tries things; what it was at the beginning stands again at the end."""

    def __init__(self, trainer: SearchHooks) -> None:
        self.trainer = trainer

    def __enter__(self) -> Shelf:
        trainer = self.trainer
        trainer.reporting.close()  # what was logged before is another run's
        self._args = dict(vars(trainer.args))
        self._callbacks = capture_states(trainer.callback_handler.callbacks)
        self._decisions = list(trainer.callback_handler.decisions)
        self._control, self._flags = trainer.control, dict(vars(trainer.control))
        self._kept = {name: getattr(trainer, name) for name in ("state", "run_id", "has_trained", "precision")}
        return self

    def begin_trial(self) -> None:
        """Put arguments and callbacks into their first state."""
        trainer = self.trainer
        self._put_back_arguments()
        self._put_back_callbacks()
        trainer.callback_handler.decisions.clear()
        trainer.has_trained = True  # so that each trial is a run of its own

    def make_precision(self) -> None:
        """Let the arguments' precision count, with a gradient scale of its own."""
        self.trainer.precision = choose_precision(self.trainer.args, self.trainer.args.device)

    def end_trial(self) -> None:
        """Let go of what a trial leaves in memory besides its model."""
        trainer = self.trainer
        trainer.training_loop = trainer.optimizer = trainer.lr_scheduler = None
        trainer.callback_handler.optimizer = trainer.callback_handler.lr_scheduler = None
        trainer.callback_handler.train_dataloader = None

    def __exit__(self, *exception: object) -> None:
        trainer = self.trainer
        trainer.reporting.close()
        self._put_back_arguments()
        self._put_back_callbacks()
        trainer.callback_handler.decisions.clear()
        trainer.callback_handler.decisions.extend(self._decisions)
        vars(self._control).update(self._flags)
        trainer.control = self._control
        for name, value in self._kept.items():
            setattr(trainer, name, value)

    def _put_back_arguments(self) -> None:
        # The object itself, as model_init and callbacks may hold it.
        held: dict[str, Any] = vars(self.trainer.args)
        held.clear()
        held.update(self._args)

    def _put_back_callbacks(self) -> None:
        callbacks = self.trainer.callback_handler.callbacks
        # Nothing counts as changed by the script: what they were built with is what they had.
        restore_states(callbacks, self._callbacks, capture_states(callbacks))
