"""Count the input tokens of a batch, for `include_num_input_tokens_seen`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from loopwright._support.log import get_logger, warn_once

logger = get_logger(__name__)


def count_tokens(model: Any, inputs: Any, processing_class: Any, *, only_real: bool) -> int:
    """Return the number of elements of the model's main input; with `only_real` those that aren't padding."""
    name = getattr(model, "main_input_name", "input_ids")
    tokens = inputs.get(name) if isinstance(inputs, Mapping) else None
    if not isinstance(tokens, torch.Tensor):
        warn_once(logger, f"include_num_input_tokens_seen: batches have no {name!r}, so no tokens are counted")
        return 0
    if not only_real:
        return tokens.numel()
    mask = inputs.get("attention_mask")
    if isinstance(mask, torch.Tensor):
        return int(mask.sum())
    padding = getattr(processing_class, "pad_token_id", None)
    if padding is None:
        warn_once(
            logger, "include_num_input_tokens_seen='non_padding': no attention_mask and no pad_token_id; all count"
        )
        return tokens.numel()
    return int(tokens.ne(padding).sum())
