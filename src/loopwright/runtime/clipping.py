"""Clip gradients by their common norm: torch's arithmetic, without looking at every tensor of every step anew.

`torch.nn.utils.clip_grad_norm_` sorts the gradients by device and format twice a step, and multiplies all of them also
where the norm is within the limit. Where they can only be of one device and format, neither is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from loopwright.runtime.dtensors import is_dtensor

# What torch itself has "foreach" kernels for, as far as its plain tensors go.
_FOREACH_DEVICES = ("cpu", "cuda")
_PLAIN_TYPES = (nn.Parameter, torch.Tensor)
# In the place where torch adds it, so that the coefficient is the same to the last bit.
_AVOIDS_ZERO = 1e-6


class Clipper:
    """Clips the gradients of some parameters.

    Arguments:
        parameters: Which; made anew when others are trained.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        kinds = {(type(parameter), parameter.device, parameter.dtype) for parameter in parameters}
        self._is_uniform = len(kinds) == 1 and all(
            kind in _PLAIN_TYPES and device.type in _FOREACH_DEVICES for kind, device, _ in kinds
        )

    def clip(self, max_norm: float) -> torch.Tensor:
        """Scale the gradients down where their 2-norm exceeds `max_norm`; return it as it was, zero-dimensional.

        What comes out is bit for bit what `torch.nn.utils.clip_grad_norm_` makes of them. Nothing waits for an
        accelerator.
        """
        gradients = [grad for parameter in self.parameters if (grad := parameter.grad) is not None]
        if not self._is_uniform or not gradients:
            return self._clip_any(gradients, max_norm)
        with torch.no_grad():
            norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            coefficient = torch.clamp(max_norm / (norm + _AVOIDS_ZERO), max=1.0)
            # On the CPU looking is free, and a product with 1 changes nothing but passes over all gradients.
            if norm.device.type != "cpu" or coefficient.item() != 1.0:
                torch._foreach_mul_(gradients, coefficient)
        return norm

    def _clip_any(self, gradients: list[torch.Tensor], max_norm: float) -> torch.Tensor:
        norm = nn.utils.get_total_norm(gradients)
        if is_dtensor(norm):  # summed up over the parts here, once, and not at every use
            norm = norm.full_tensor()
        nn.utils.clip_grads_with_norm_(self.parameters, max_norm, norm)
        return norm
