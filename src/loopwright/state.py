"""Where a run is (`TrainerState`) and what should happen next (`TrainerControl`), as callbacks see and change them.

`TrainerState` is written to `trainer_state.json` with transformers' keys and no other, so that either library reads
the other's file. What only Loopwright knows goes to `loopwright_state.json`, beside it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from loopwright._support.files import write_text_atomically
from loopwright._support.log import Logger, get_logger

logger: Logger = get_logger(__name__)

TRAINER_STATE_NAME = "trainer_state.json"
BETWEEN_LINES = ",\n    "  # of the log history, in the state's JSON


class ExportableState:
    """Mix-in for objects whose state belongs in a checkpoint.

    `state` returns JSON-able values: `"args"`, the constructor's, and `"attributes"`, those that change as training
    goes. Loopwright puts them back into the very object that the Trainer holds.

    Example:
        ```python
        class Counter(TrainerCallback, ExportableState):
            def __init__(self, every: int = 10) -> None:
                self.every = every
                self.seen = 0

            def state(self) -> dict:
                return {"args": {"every": self.every}, "attributes": {"seen": self.seen}}
        ```
    """

    def state(self) -> dict[str, Any]:
        """Return `{"args": {...}, "attributes": {...}}`, JSON-able."""
        raise NotImplementedError(f"{type(self).__name__} is an ExportableState and must define state()")

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Build an instance from what `state` returned."""
        instance = cls(**state["args"])
        for name, value in state["attributes"].items():
            setattr(instance, name, value)
        return instance


def is_exportable(thing: object) -> bool:
    """Return whether `thing` has a state to save, be it our `ExportableState` or another library's."""
    kind = type(thing)
    return callable(getattr(kind, "state", None)) and callable(getattr(kind, "from_state", None))


@dataclass
class TrainerControl(ExportableState):
    """Flags by which callbacks steer the loop, and which fall again by themselves.

    Arguments:
        should_training_stop: Stop training. Falls only when the next `train()` begins.
        should_epoch_stop: End this epoch. Falls at the next epoch's beginning.
        should_save: Save a checkpoint. Falls when it is saved, and at the next step's beginning.
        should_evaluate: Evaluate. Falls when that is done, and at the next step's beginning.
        should_log: Report the logs. Falls when that is done, and at the next step's beginning.
    """

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    def _new_training(self) -> None:
        self.should_training_stop = False

    def _new_epoch(self) -> None:
        self.should_epoch_stop = False

    def _new_step(self) -> None:
        self.should_save = False
        self.should_evaluate = False
        self.should_log = False

    def state(self) -> dict[str, Any]:
        """Return the flags, as transformers lays them out."""
        return {"args": {flag: getattr(self, flag) for flag in CONTROL_FLAGS}, "attributes": {}}


CONTROL_FLAGS: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(TrainerControl))


@dataclass
class TrainerState:
    """Where training is; saved with every checkpoint and handed to every callback. A step is one optimizer update.

    Arguments:
        epoch: Epochs done, the fraction being the share of the current one; None until training begins.
        global_step: Optimizer updates done.
        max_steps: Updates that this training will do in all.
        logging_steps: Log every so many steps.
        eval_steps: Evaluate every so many steps.
        save_steps: Save every so many steps.
        train_batch_size: Examples per device and micro-batch; what `auto_find_batch_size` arrived at.
        num_train_epochs: Epochs that this training will do in all, rounded up.
        num_input_tokens_seen: Input tokens trained on so far, where they are counted.
        total_flos: Floating-point operations so far (a float, for its range).
        log_history: Every log line so far, each with its "step".
        best_metric: Best value so far of `metric_for_best_model`.
        best_global_step: The step it was seen at.
        best_model_checkpoint: The checkpoint that holds it.
        is_local_process_zero: Whether this is the first process of its machine.
        is_world_process_zero: Whether this is the first process of all.
        is_hyper_param_search: Whether this run is a trial of `hyperparameter_search`.
        trial_name: The trial's name.
        trial_params: The trial's parameters.
        stateful_callbacks: States of the callbacks, by class name (a list where one class has several instances).
            Objects may be given; their states are taken.
    """

    epoch: float | None = None
    global_step: int = 0
    max_steps: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0
    log_history: list[dict[str, Any]] = None  # type: ignore[assignment]  # transformers' default; a list from here on
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, str | float | int | bool] | None = None
    stateful_callbacks: Any = None

    def __post_init__(self) -> None:
        if self.log_history is None:
            self.log_history = []
        if self.stateful_callbacks is None:
            self.stateful_callbacks = {}
        elif not isinstance(self.stateful_callbacks, dict):
            self.stateful_callbacks = collect_states(self.stateful_callbacks)

    def save_to_json(self, json_path: str | Path) -> None:
        """Write this state to `json_path`: whole or not at all."""
        write_text_atomically(json_path, self.to_json())

    def to_json(self, encode_history: Callable[[list[dict[str, Any]]], str] | None = None) -> str:
        """Return the text that `save_to_json` writes, a field a line, and in the history a log line a line.

        Arguments:
            encode_history: What to call in place of `encode_lines`.
        """
        fields = {
            field.name: _encode(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name != "log_history"
        }
        history = (encode_history or encode_lines)(self.log_history)
        fields["log_history"] = f"[\n    {history}\n  ]" if history else "[]"
        return "{\n" + ",\n".join(f'  "{name}": {fields[name]}' for name in sorted(fields)) + "\n}\n"

    @classmethod
    def load_from_json(cls, json_path: str | Path) -> Self:
        """Read a state that this library or transformers (any version) wrote; keys unknown here are left out."""
        found = json.loads(Path(json_path).read_text(encoding="utf-8"))
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(found) - known):
            logger.info("%s: left out fields of another version: %s", json_path, ", ".join(unknown))
        return cls(**{name: value for name, value in found.items() if name in known})

    def compute_steps(self, args: Any, max_steps: int) -> None:
        """Take the cadence from `args` in whole steps: there, numbers below 1 are fractions of `max_steps`."""
        for kind in ("logging", "eval", "save"):
            steps = getattr(args, f"{kind}_steps")
            if steps is not None:
                setattr(self, f"{kind}_steps", math.ceil(max_steps * steps) if steps < 1 else steps)


def collect_states(things: Iterable[Any]) -> dict[str, Any]:
    """Return the states of `things` by class name; a list, in order, where a class has several instances."""
    by_name: dict[str, list[Any]] = {}
    for thing in things:
        if not is_exportable(thing):
            raise TypeError(f"a {type(thing).__name__} has no state to save: it must inherit ExportableState")
        by_name.setdefault(type(thing).__name__, []).append(thing.state())
    return {name: states if len(states) > 1 else states[0] for name, states in by_name.items()}


def encode_lines(history: Iterable[dict[str, Any]]) -> str:
    """Return the log lines as the state's JSON holds them, one below the other."""
    return BETWEEN_LINES.join(map(_encode, history))


def plain_number(value: Any) -> Any:
    """Let json write numbers of NumPy and zero-dimensional tensors, which callbacks put into logs."""
    if callable(item := getattr(value, "item", None)) and getattr(value, "ndim", 0) == 0:
        return item()
    raise TypeError(f"can't write a {type(value).__name__} into {TRAINER_STATE_NAME}: {value!r:.80}")


# Line by line by json's C encoder, which doesn't indent: half the time of indent=2 where the history is long, and other
# threads come in between.
_encode = json.JSONEncoder(sort_keys=True, default=plain_number).encode
