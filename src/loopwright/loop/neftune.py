"""Noise on a model's input embeddings while it trains, for `neftune_noise_alpha`.

Each embedding gets uniform noise within alpha / sqrt(length * width), as in NEFTune (arXiv 2310.05914); the draws are
those of transformers where the stream stands the same. That is the device's global one, which checkpoints keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from loopwright.data.columns import inner_model
from loopwright.errors import ArgumentError


@contextmanager
def noisy_embeddings(model: nn.Module, alpha: float | None) -> Iterator[None]:
    """Let the input embeddings of `model` be noisy inside, in training mode alone.

    Arguments:
        model: The bare model.
        alpha: `neftune_noise_alpha`; None and 0 change nothing.

    Raises:
        ArgumentError: the model doesn't say which its input embeddings are.
    """
    if not alpha:
        yield
        return
    handle = input_embeddings(model, alpha).register_forward_hook(_add_noise_within(alpha))
    try:
        yield
    finally:
        handle.remove()


def input_embeddings(model: nn.Module, alpha: float) -> nn.Module:
    """Return the module that makes embeddings of the model's inputs.

    Raises:
        ArgumentError: the model has no `get_input_embeddings`, or that returns no module.
    """
    inner = inner_model(model)
    find = getattr(inner, "get_input_embeddings", None)
    try:
        found = find() if callable(find) else None
    except NotImplementedError:  # as transformers' models without text do
        found = None
    if not isinstance(found, nn.Module):
        raise ArgumentError(
            f"neftune_noise_alpha={alpha}: expected a model with get_input_embeddings(), which returns the module that "
            f"the noise is put on; {type(inner).__name__} has none"
        )
    return found


def _add_noise_within(alpha: float) -> Any:
    def add_noise(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        # In single precision, as transformers does, so that the noise is the same to the last bit.
        bound = float(alpha / torch.sqrt(torch.tensor(output.size(1) * output.size(2))))
        return output + torch.empty_like(output).uniform_(-bound, bound)

    return add_noise
