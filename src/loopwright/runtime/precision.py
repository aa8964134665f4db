"""Decide in which number format a training computes, and keep fp16 gradients from vanishing.

    fp16=True   float16 by autocast; the loss is scaled up before backward, gradients down again before the step
    bf16=True   bfloat16 by autocast; it has float32's range, so nothing is scaled
    neither     the formats that the model has; every method here is the plain torch call
    tf32        how accelerators that have it multiply float32 matrices, with any of the three

The weights stay in the format that they have. Turning on full determinism is `runtime.randomness`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from loopwright._support.log import Logger, get_logger
from loopwright.errors import ArgumentError
from loopwright.runtime.stepping import Stepper

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments

logger: Logger = get_logger(__name__)

# Further down its inverse has no float32: torch then multiplies gradients by infinity, and takes that for a good step.
_LOWEST_SCALE = 2.0**-100
_FIRST_TF32_GENERATION = 8  # Ampere, as the major part of CUDA's compute capability
# nullcontext keeps no state, so one is enough for all steps, nested ones included.
_NOTHING = nullcontext()


class Precision:
    """How one training computes: the autocast around forward, and the scaler around backward and step.

    Arguments:
        dtype: What autocast lowers float32 to; None for no autocast.
        device: Where forward runs.
        scaler: Scales the loss; None where gradients can't vanish.

    Attributes:
        dtype: As given.
        scaler: As given.
        autocast: Called without arguments for each forward, returns the context to run it in. It makes a context each
            time, a microsecond dearer than keeping one: torch's autocast objects forget, when entered twice, what to
            put back, and autocast would stay on.
    """

    __slots__ = ("_stepper", "autocast", "dtype", "scaler")

    def __init__(
        self, dtype: torch.dtype | None, device: torch.device, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        self.dtype: torch.dtype | None = dtype
        self.scaler: torch.amp.GradScaler | None = scaler
        self._stepper = Stepper()
        self.autocast: Callable[[], AbstractContextManager[Any]] = (
            _return_nothing if dtype is None else partial(torch.autocast, device.type, dtype)
        )

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of `loss`, scaled where there is a scaler."""
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's tensor methods have no types

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring the gradients to their true size, which clipping needs; `step` does it where nobody did.

        Only once per step: torch refuses a second time.
        """
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Update the weights; return whether that happened, or was skipped since a gradient was inf or NaN."""
        scaler = self.scaler
        if scaler is None:
            self._stepper.step(optimizer)
            return True
        # A fused optimizer is called in any case and skips by itself, so only the scale tells: it falls after every
        # skipped step, and after no other.
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        after = scaler.get_scale()
        if after < _LOWEST_SCALE:
            scaler.update(_LOWEST_SCALE)
        return after >= before

    def state_dict(self) -> dict[str, Any]:
        """Return the scaler's state; empty without one."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the scaler's state back; one without its counterpart is left out, and the log says so."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(dict(state))
        elif self.scaler is not None:
            logger.warning("the state to go on from has no gradient scale: fp16 begins with a new one")
        elif state:
            logger.warning("the state to go on from has a gradient scale, which only fp16 uses: it is left out")


def choose_precision(args: TrainingArguments, device: torch.device) -> Precision:
    """Return the precision that the arguments ask for, after setting TF32 as they say.

    Raises:
        ArgumentError: fp16 and bf16 at once, or a format that `device` doesn't have.
    """
    if args.fp16 and args.bf16:
        raise ArgumentError("fp16=True, bf16=True: expected at most one of them")
    apply_tf32(_wanted_tf32(args, device), device)
    if args.bf16:
        if device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ArgumentError(f"bf16=True: {torch.cuda.get_device_name(device)} has no bfloat16; use fp16=True")
        return Precision(torch.bfloat16, device)
    if args.fp16:
        return Precision(torch.float16, device, torch.amp.GradScaler(device.type))
    return Precision(None, device)


def apply_tf32(flag: bool | None, device: torch.device) -> None:
    """Let float32 matrix products and convolutions round their inputs to TF32, or not; None leaves torch's setting.

    Raises:
        ArgumentError: True, and `device` doesn't have TF32.
    """
    if flag is None:
        return
    if not has_tf32(device):
        if flag:
            raise ArgumentError(f"tf32=True: expected an NVIDIA GPU of the Ampere generation or newer, found {device}")
        return
    # Not through the newer `fp32_precision`: it makes torch.get_float32_matmul_precision() raise, which torch.compile
    # calls.
    torch.backends.cuda.matmul.allow_tf32 = flag
    torch.backends.cudnn.allow_tf32 = flag


def has_tf32(device: torch.device) -> bool:
    """Return whether `device` can multiply in TF32."""
    if device.type != "cuda" or torch.version.cuda is None:  # ROCm's devices are called cuda too
        return False
    return torch.cuda.get_device_capability(device)[0] >= _FIRST_TF32_GENERATION


def _wanted_tf32(args: TrainingArguments, device: torch.device) -> bool | None:
    # As in transformers, a compiled model gets TF32 where nobody said otherwise; its float32 parts gain nothing else.
    if args.tf32 is None and args.torch_compile and not args.fp16 and has_tf32(device):
        return True
    return args.tf32


def _return_nothing() -> AbstractContextManager[None]:
    return _NOTHING
