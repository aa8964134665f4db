"""Count the input tokens of a batch, for `include_num_input_tokens_seen`.

A batch is counted as the loader gave it, on the CPU as a rule: counted on an accelerator it would have to be waited
for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.data.columns import main_input_name

if TYPE_CHECKING:
    from loopwright.loop.hooks import TrainingHooks

logger: Logger = get_logger(__name__)


def count_tokens(trainer: TrainingHooks, inputs: Any, *, only_real: bool) -> int:
    """Return the number of elements of the model's main input; with `only_real` those that aren't padding."""
    name = main_input_name(trainer.model)
    tokens = inputs.get(name) if isinstance(inputs, Mapping) else None
    if not isinstance(tokens, torch.Tensor):
        warn_once(logger, f"include_num_input_tokens_seen: batches have no {name!r}, so no tokens are counted")
        return 0
    if not only_real:
        return tokens.numel()
    mask = inputs.get("attention_mask")
    if isinstance(mask, torch.Tensor):
        return int(mask.sum())
    padding = getattr(trainer.processing_class, "pad_token_id", None)
    if padding is None:
        warn_once(
            logger, "include_num_input_tokens_seen='non_padding': no attention_mask and no pad_token_id; all count"
        )
        return tokens.numel()
    return int(tokens.ne(padding).sum())
