"""Let all processes of a training act on the same flags at the same step.

What follows from arguments and step numbers alone (the default flow) is the same everywhere, and acted on at once.
What any other callback sets, on whichever process, is held back until all have heard of it: after an evaluation, at an
epoch's end, where the step ends with an evaluation or a save, and else every so many steps, chosen so that it takes at
most a hundredth of the time. Then all do it. Signals are agreed on in the same way.

    a callback sets should_save ──▶ held back ──▶ agree: the greatest over all, one small vector ──▶ set on all
"""

from __future__ import annotations

import math
import signal
import time
from typing import TYPE_CHECKING, Any

from loopwright._support.log import get_logger
from loopwright.loop.pausing import Paused, PausePoint
from loopwright.state import CONTROL_FLAGS

if TYPE_CHECKING:
    from loopwright.loop.hooks import TrainingHooks
    from loopwright.records import Decision
    from loopwright.runtime.ranks import Ranks
    from loopwright.runtime.signals import SignalWatch

logger = get_logger(__name__)

_SHARE_OF_TIME = 0.01
# However cheap it is to ask more seldom, a signal or a stop is not to wait longer.
_LONGEST_SECONDS = 5.0
_STEPS_TIMED = 8


class AgreedPause(PausePoint):
    """Where the loops of several processes look whether they should pause: all of them, or none.

    Arguments:
        signals: Which signal has come to this process.

    Attributes:
        is_agreed: Whether all know of a signal.
    """

    def __init__(self, signals: SignalWatch) -> None:
        super().__init__(signals)
        self.is_agreed = False

    @property
    def is_asked(self) -> bool:
        """Whether a signal has come that all know of."""
        return self.is_agreed

    def stop_here(self) -> None:
        """Raise `Paused` where all know of a signal."""
        if self.is_agreed:
            raise Paused

    def stop_while_waiting(self) -> None:
        """Raise the error of a worker that died; a signal is not looked at, as the others are not waiting here.

        Raises:
            RuntimeError: torch's, naming the worker.
        """
        if self.signals.lost_worker is not None:
            raise self.signals.lost_worker

    def stop_in_evaluation(self) -> None:
        """Do nothing: an evaluation of several processes is gone through to its end."""


class Agreement:
    """Holds back what callbacks of this process alone have decided, until all processes act on it.

    Arguments:
        trainer: Whose callbacks, control and state.
        ranks: All processes.
        pause: Learns of signals.

    Attributes:
        every: Steps from one agreement to the next.
    """

    def __init__(self, trainer: TrainingHooks, ranks: Ranks, pause: AgreedPause) -> None:
        self.trainer = trainer
        self.ranks = ranks
        self.pause = pause
        self.every = 1
        self._decisions: list[Decision] = []
        self._costs: list[float] = []
        self._began = time.perf_counter()

    def hold_back(self, decision: Decision, *, is_routine: bool) -> bool:
        """Take note of a decision; return whether the flag is to be put back as it was, until all agree.

        Arguments:
            decision: What a callback has just set.
            is_routine: Whether it is the default flow's, which decides the same everywhere.
        """
        if is_routine:
            return False
        self._decisions.append(decision)
        return True

    def at_step_end(self) -> None:
        """Agree where it is time."""
        control = self.trainer.control
        acts = control.should_evaluate or control.should_save or control.should_training_stop
        if acts or self.trainer.state.global_step % self.every == 0:
            started = time.perf_counter()
            self.settle()
            if self.every == 1 and len(self._costs) <= _STEPS_TIMED:
                self._time(started)
        else:
            # What is cleared is a flag of this very step, and that is one that may be different on each process.
            self._decisions = [decision for decision in self._decisions if decision.value]

    def settle(self) -> None:
        """Let all processes have the flags that any of them wants, and know of a signal that any of them got."""
        trainer, decisions = self.trainer, self._decisions
        wanted = {decision.flag: decision.value for decision in decisions}
        received = self.pause.signals.received
        numbers = self.ranks.agree(
            [
                *(int(wanted.get(flag) is True) for flag in CONTROL_FLAGS),
                *(int(wanted.get(flag) is False) for flag in CONTROL_FLAGS),
                0 if received is None else int(received),
                int(trainer.saving.is_writing),
            ]
        )
        count = len(CONTROL_FLAGS)
        for flag, is_set, is_cleared in zip(CONTROL_FLAGS, numbers, numbers[count:], strict=False):
            if is_set or is_cleared:
                setattr(trainer.control, flag, bool(is_set))
        if any(numbers[: 2 * count]):
            self._tell(decisions)
            self._decisions = []
        number, is_writing = numbers[2 * count :]
        if number:
            self.pause.is_agreed = True
            self.pause.signals.received = signal.Signals(number)
        if not trainer.saving.is_idle:
            trainer.saving.settle(is_written=not is_writing)

    def _tell(self, decisions: list[Decision]) -> None:
        """Let the first process record what was decided on others and not on itself."""
        found = self.ranks.gather(decisions)
        for index, others in enumerate(found or ()):
            for decision in others:
                if index and decision not in decisions:
                    self.trainer.callback_handler.note_decision_of(index, decision)

    def _time(self, started: float) -> None:
        """Choose `every` once some steps have shown what an agreement and a step take."""
        now = time.perf_counter()
        self._costs.append(now - started)
        if len(self._costs) == 1:
            self._began = now  # the first step compiles and warms up
            return
        if len(self._costs) <= _STEPS_TIMED:
            return
        step = (now - self._began) / _STEPS_TIMED
        cost = sorted(self._costs)[len(self._costs) // 2]
        own = max(1, min(math.ceil(cost / (_SHARE_OF_TIME * step)), int(_LONGEST_SECONDS / step)))
        (self.every,) = self.ranks.agree([own])
        logger.debug(
            "flags are agreed on every %d steps: that takes %.0f us, a step %.0f", self.every, cost * 1e6, step * 1e6
        )


def agreement_of(trainer: Any, signals: SignalWatch) -> tuple[PausePoint, Agreement | None]:
    """Return where the loop pauses, and how its flags are agreed on: not at all in one process."""
    ranks: Ranks = trainer.ranks
    if not ranks.are_many:
        return PausePoint(signals), None
    pause = AgreedPause(signals)
    return pause, Agreement(trainer, ranks, pause)
