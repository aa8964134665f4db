"""Call the callbacks at each event, note who decided what, and keep the time that each takes.

For every event the handler holds a tuple of the methods that really answer it, made anew when the list of callbacks
changes and when training or an epoch begins (which finds methods assigned to an instance meanwhile). An event that
nobody answers costs one look-up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from operator import attrgetter
from time import perf_counter
from typing import Any

from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.callbacks.events import Event
from loopwright.callbacks.flow import DefaultFlowCallback
from loopwright.callbacks.listening import Listener, ObservedList, answered_events
from loopwright.records import Decision
from loopwright.state import CONTROL_FLAGS, is_exportable

logger: Logger = get_logger(__name__)

_read_flags = attrgetter(*CONTROL_FLAGS)
_DECISIONS_KEPT = 10_000


class CallbackHandler:
    """Holds the callbacks, in order, and calls them.

    Arguments:
        callbacks: Callbacks, as classes or instances.
        model: What callbacks receive as `model`.
        processing_class: What they receive as `processing_class` (and as `tokenizer`, its old name).
        optimizer: What they receive as `optimizer`.
        lr_scheduler: What they receive as `lr_scheduler`.
        callback_errors: "raise" lets an exception end training, as in transformers; "disable" reports it and goes on
            without that callback.

    Attributes:
        callbacks: The list; may be edited in place.
        decisions: The newest 10,000 changes of control flags, each with its author. The default flow's routine
            (log, evaluate and save by arguments and step number) is not among them.
        on_decision: Called with each as it is taken.
        hold_back: Called with each, and `is_routine`, whether it is the default flow's; says whether the flag is to be
            put back, since others must hear of it first.
    """

    def __init__(  # noqa: PLR0913 -- transformers' signature
        self,
        callbacks: Iterable[Any],
        model: Any,
        processing_class: Any,
        optimizer: Any,
        lr_scheduler: Any,
        callback_errors: str = "raise",
    ) -> None:
        self.model = model
        self.processing_class = processing_class
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.train_dataloader: Any = None
        self.eval_dataloader: Any = None
        self.callback_errors = callback_errors
        self.decisions: deque[Decision] = deque(maxlen=_DECISIONS_KEPT)
        self.on_decision: Callable[[Decision], None] | None = None
        self.hold_back: Callable[..., bool] | None = None
        self._costs: dict[tuple[int, str], Listener] = {}
        self._disabled: set[int] = set()
        self._listeners: dict[str, tuple[Listener, ...]] = {}
        self._callbacks = ObservedList((), self.refresh)
        self.refresh()  # without a single callback, events still come
        for callback in callbacks:
            self.add_callback(callback)
        if not any(_is_default_flow(callback) for callback in self.callbacks):
            logger.warning(
                "There is no DefaultFlowCallback: nothing logs, evaluates, saves or ends at max_steps unless another "
                "callback says so. Callbacks:\n%s",
                self.callback_list,
            )

    # The list

    @property
    def callbacks(self) -> list[Any]:
        """The callbacks, in the order in which they run."""
        return self._callbacks

    @callbacks.setter
    def callbacks(self, callbacks: Iterable[Any]) -> None:
        # `handler.callbacks += [...]` assigns the list to itself: whoever holds it goes on holding the one in use.
        if not (callbacks is self._callbacks and isinstance(callbacks, ObservedList)):
            self._callbacks = ObservedList(callbacks, self.refresh)
        self.refresh()

    @property
    def callback_list(self) -> str:
        """The callbacks' class names, a line each."""
        return "\n".join(type(callback).__name__ for callback in self.callbacks)

    def add_callback(self, callback: Any) -> None:
        """Append a callback, given as a class or an instance; warn where its class is there already."""
        instance = callback() if isinstance(callback, type) else callback
        if type(instance) in map(type, self.callbacks):
            logger.warning("Adding a second %s. Callbacks:\n%s", type(instance).__name__, self.callback_list)
        self.callbacks.append(instance)

    def pop_callback(self, callback: Any) -> Any:
        """Remove and return the first callback of this class, or this instance; None where there is none."""
        found = next(self._matching(callback), None)
        if found is not None:
            self._drop(found)
        return found

    def remove_callback(self, callback: Any) -> None:
        """Remove the first callback of this class, or this instance.

        Raises:
            ValueError: an instance was given that is not in the list.
        """
        if self.pop_callback(callback) is None and not isinstance(callback, type):
            raise ValueError(f"{callback!r} is not among the callbacks:\n{self.callback_list}")

    def _matching(self, callback: Any) -> Iterator[Any]:
        if isinstance(callback, type):
            return (held for held in self.callbacks if isinstance(held, callback))
        return (held for held in self.callbacks if held is callback or held == callback)

    def _drop(self, callback: Any) -> None:
        # By identity: list.remove would take an equal one that comes earlier.
        self.callbacks[:] = [held for held in self.callbacks if held is not callback]

    def refresh(self) -> None:
        """Find anew which callback answers which event."""
        by_event: dict[str, list[Listener]] = {event.value: [] for event in Event}
        for callback in self.callbacks:
            if id(callback) not in self._disabled:
                idle = callback.idle_events() if _is_tracker(callback) else ()
                for event, method in answered_events(callback).items():
                    if event not in idle:
                        by_event[event].append(self._listener(callback, event, method))
        for event, listeners in by_event.items():
            # Trackers open first, so that others find their runs, and hear last, so that they hear what others added.
            listeners.sort(key=lambda listener: _is_tracker(listener.callback), reverse=event == Event.TRAIN_BEGIN)
        self._listeners = {event: tuple(listeners) for event, listeners in by_event.items()}

    def _listener(self, callback: Any, event: str, method: Callable[..., Any]) -> Listener:
        # The listener holds the callback, so its id can't be another's while the cost is kept.
        listener = self._costs.setdefault((id(callback), event), Listener(callback, event, method))
        listener.method = method
        return listener

    def __getstate__(self) -> dict[str, Any]:
        # What is kept by a callback's id holds in this process and for these very objects only.
        disabled = [number for number, callback in enumerate(self.callbacks) if id(callback) in self._disabled]
        return {**self.__dict__, "_costs": {}, "_listeners": {}, "_disabled": disabled, "hold_back": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._disabled = {id(state["_callbacks"][number]) for number in state["_disabled"]}
        self.callbacks = state["_callbacks"]

    # Calling

    def call_event(self, event: str, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Call every callback that answers `event`, in order, and return the control that they leave behind."""
        listeners = self._listeners[event]
        if not listeners:
            return control
        context = {**self._context(), **kwargs} if kwargs else None
        # Flag by flag and keyword by keyword: more bytecodes than an attrgetter and a `**`, and a third of their work.
        stops, stops_epoch = control.should_training_stop, control.should_epoch_stop
        saves, evaluates, logs = control.should_save, control.should_evaluate, control.should_log
        started = perf_counter()
        for listener in listeners:
            try:
                result = (
                    listener.method(
                        args,
                        state,
                        control,
                        model=self.model,
                        processing_class=self.processing_class,
                        tokenizer=self.processing_class,
                        optimizer=self.optimizer,
                        lr_scheduler=self.lr_scheduler,
                        train_dataloader=self.train_dataloader,
                        eval_dataloader=self.eval_dataloader,
                    )
                    if context is None
                    else listener.method(args, state, control, **context)
                )
                left = control if result is None else result
                # Within the try: what is returned may be no control at all, and that is this callback's error.
                is_same = (
                    left.should_training_stop is stops
                    and left.should_epoch_stop is stops_epoch
                    and left.should_save is saves
                    and left.should_evaluate is evaluates
                    and left.should_log is logs
                )
                flags = None if is_same else _read_flags(left)
            except (Exception, SystemExit) as error:
                self._handle_error(listener, state, error)
                left, flags = control, _read_flags(control)
            now = perf_counter()
            listener.calls += 1
            listener.seconds += now - started
            started, control = now, left
            if flags is not None:
                self._note_decisions(listener, state, control, (stops, stops_epoch, saves, evaluates, logs))
                stops, stops_epoch, saves, evaluates, logs = _read_flags(control)
        return control

    def _context(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "processing_class": self.processing_class,
            "tokenizer": self.processing_class,
            "optimizer": self.optimizer,
            "lr_scheduler": self.lr_scheduler,
            "train_dataloader": self.train_dataloader,
            "eval_dataloader": self.eval_dataloader,
        }

    def _note_decisions(self, listener: Listener, state: Any, control: Any, before: tuple[Any, ...]) -> None:
        is_default = _is_default_flow(listener.callback)
        routine = DefaultFlowCallback.routine_flags if is_default else ()
        name = type(listener.callback).__name__
        for flag, old, new in zip(CONTROL_FLAGS, before, _read_flags(control), strict=True):
            if old != new and flag not in routine:
                decision = Decision(state.global_step, name, listener.event, flag, bool(new))
                self._keep(decision)
                if self.hold_back is not None and self.hold_back(decision, is_routine=is_default):
                    setattr(control, flag, old)

    def _keep(self, decision: Decision) -> None:
        self.decisions.append(decision)
        if self.on_decision is not None:
            self.on_decision(decision)

    def note_decision_of(self, rank: int, decision: Decision) -> None:
        """Take note of what a callback of another process has decided, and all act on."""
        self._keep(replace(decision, callback=f"rank {rank}: {decision.callback}"))

    def _handle_error(self, listener: Listener, state: Any, error: Exception | SystemExit) -> None:
        if _is_tracker(listener.callback):
            warn_once(logger, f"{listener} raised, and training goes on: {type(error).__name__}: {error}")
            return
        if isinstance(error, SystemExit):
            raise error
        error.add_note(f"raised by the callback {listener} at step {state.global_step}")
        if self.callback_errors == "raise":
            raise error
        logger.error("%s raised; training goes on without this callback", listener, exc_info=error)
        self._disabled.add(id(listener.callback))
        self.refresh()

    # The events. At those of each step and batch an empty `**kwargs` is not handed on: that takes longer than the call.

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Tell the callbacks that the Trainer is built."""
        return self.call_event(Event.INIT_END, args, state, control, **kwargs)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Let `should_training_stop` fall, and tell the callbacks that training begins."""
        self.refresh()
        control.should_training_stop = False
        return self.call_event(Event.TRAIN_BEGIN, args, state, control, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Tell the callbacks that training has ended."""
        return self.call_event(Event.TRAIN_END, args, state, control, **kwargs)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Let `should_epoch_stop` fall, and tell the callbacks that an epoch begins."""
        self.refresh()
        control.should_epoch_stop = False
        return self.call_event(Event.EPOCH_BEGIN, args, state, control, **kwargs)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Tell the callbacks that the epoch has ended."""
        return self.call_event(Event.EPOCH_END, args, state, control, **kwargs)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Let the flags of the last step fall, and tell the callbacks that an update begins."""
        control.should_log = control.should_evaluate = control.should_save = False
        if kwargs:
            return self.call_event("on_step_begin", args, state, control, **kwargs)
        return self.call_event("on_step_begin", args, state, control)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Tell the callbacks that the clipped gradients are about to be used."""
        if kwargs:
            return self.call_event("on_pre_optimizer_step", args, state, control, **kwargs)
        return self.call_event("on_pre_optimizer_step", args, state, control)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Tell the callbacks that the optimizer has stepped and the gradients are still there."""
        if kwargs:
            return self.call_event("on_optimizer_step", args, state, control, **kwargs)
        return self.call_event("on_optimizer_step", args, state, control)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Tell the callbacks that a micro-batch, not the update's last, is done."""
        if kwargs:
            return self.call_event("on_substep_end", args, state, control, **kwargs)
        return self.call_event("on_substep_end", args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Tell the callbacks that an update is done."""
        if kwargs:
            return self.call_event("on_step_end", args, state, control, **kwargs)
        return self.call_event("on_step_end", args, state, control)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> Any:
        """Let `should_evaluate` fall, and hand the callbacks the metrics."""
        control.should_evaluate = False
        return self.call_event(Event.EVALUATE, args, state, control, metrics=metrics, **kwargs)

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> Any:
        """Hand the callbacks the metrics of a prediction."""
        return self.call_event(Event.PREDICT, args, state, control, metrics=metrics, **kwargs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Let `should_save` fall, and tell the callbacks that the checkpoint is on the disk."""
        control.should_save = False
        return self.call_event(Event.SAVE, args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> Any:
        """Let `should_log` fall, and hand the callbacks the log line."""
        control.should_log = False
        return self.call_event(Event.LOG, args, state, control, logs=logs, **kwargs)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Tell the callbacks that a batch has been evaluated."""
        if kwargs:
            return self.call_event("on_prediction_step", args, state, control, **kwargs)
        return self.call_event("on_prediction_step", args, state, control)

    def on_push_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """For callers written for transformers; the Trainer never calls it."""
        return self.call_event(Event.PUSH_BEGIN, args, state, control, **kwargs)

    def on_exception(self, args: Any, state: Any, control: Any, exception: BaseException) -> None:
        """Hand `exception` to every callback, even where one of them raises meanwhile."""
        for listener in self._listeners[Event.EXCEPTION]:
            try:
                listener.method(args, state, control, **self._context(), exception=exception)
            except Exception:
                logger.exception("%s raised while the run was ending with %r", listener, exception)

    # Showing

    def costs(self) -> list[Listener]:
        """Return what each callback has cost at each event, the dearest first."""
        return sorted(self._costs.values(), key=lambda listener: listener.seconds, reverse=True)

    def seconds(self, event: str | None = None) -> float:
        """Return what the present callbacks have cost at an event, or what all have cost at any."""
        listeners = self._costs.values() if event is None else self._listeners[event]
        return sum([listener.seconds for listener in listeners])

    def __str__(self) -> str:
        rows = [("#", "callback", "seconds", "stateful", "events")]
        rows += [self._row(number, callback) for number, callback in enumerate(self.callbacks, 1)]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
        )

    def _row(self, number: int, callback: Any) -> tuple[str, str, str, str, str]:
        seconds = sum(listener.seconds for listener in self._costs.values() if listener.callback is callback)
        events = ", ".join(answered_events(callback)) or "none"
        disabled = " (disabled)" if id(callback) in self._disabled else ""
        stateful = "yes" if is_exportable(callback) else "no"
        return (str(number), type(callback).__name__ + disabled, f"{seconds:.3f}", stateful, events)


def _is_tracker(callback: Any) -> bool:
    # By attribute: trackers stand two floors up.
    return getattr(type(callback), "is_tracker", False) is True


def _is_default_flow(callback: Any) -> bool:
    # By name: transformers' own does the same and may stand in.
    return any(kind.__name__ == DefaultFlowCallback.__name__ for kind in type(callback).__mro__)
