"""Hold everything of one instant of a run, ready to be written as a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from loopwright.checkpoint.history import HistoryText
from loopwright.state import TrainerState


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that a resume needs: what is not in here is lost.

    Whoever writes it later than it was taken has to see to it that nothing in here changes meanwhile.

    Attributes:
        step: Optimizer updates done.
        model: The model, wrapped or not, or its state dict.
        trainer_state: Goes to `trainer_state.json`.
        loopwright_state: Goes to `loopwright_state.json`: JSON-able; "run_id" says which run the checkpoint belongs to.
        training_args_json: The text of `training_args.json`.
        optimizer: The optimizer's state dict.
        scheduler: The scheduler's.
        scaler: The gradient scaler's.
        randomness: What `capture_randomness` returned.
        processing_class: A tokenizer or processor to save with the model, by its own `save_pretrained`.
        model_state: The state dict of the unwrapped model, to be written in place of what the model holds by then.
            Names that are tied to each other share their storage in it, as in the model's own.
        history: Encodes the log history; who hands on the same one at the next save pays for the new lines alone.
        is_sharded: Whether `model_state` and `optimizer` hold this process's parts of `DTensor`s, which all processes
            write together.
        is_copied: Whether `model_state` and `optimizer` share nothing with the training already.
        extra: Further files by name, each a tensor, plain value or NumPy array, or a nest of them.
    """

    step: int
    model: nn.Module | Mapping[str, Any]
    trainer_state: TrainerState
    loopwright_state: dict[str, Any]
    training_args_json: str
    optimizer: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    randomness: dict[str, Any] | None = None
    processing_class: Any = None
    model_state: dict[str, Any] | None = None
    is_sharded: bool = False
    is_copied: bool = False
    history: HistoryText = field(default_factory=HistoryText)
    extra: dict[str, Any] = field(default_factory=dict)
