"""Count the floating-point operations of a training, for `total_flos`.

What a micro-batch costs is counted once for each form of batch, while the first one of it is trained on, by torch's own
formulas (`torch.utils.flop_counter`): matrix products, convolutions and attention, forward and backward, with what
activation checkpointing computes anew. From then on a step looks the number up. A model's own `floating_point_ops`
takes precedence, and is asked for every micro-batch.

The counts are in checkpoints: a resumed run has those that the run before it had, and counts none of them again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from loopwright._support.log import Logger, get_logger
from loopwright.errors import describe

if TYPE_CHECKING:
    from torch import nn

    from loopwright.loop.hooks import TrainingHooks

logger: Logger = get_logger(__name__)

# Where lengths vary without end, those that came first make way; each takes some 100 bytes of a checkpoint.
_MOST_FORMS = 1024
_NOTHING = nullcontext()

_aten = torch.ops.aten
# The CPU's attention, for which torch has no formula of its own: the operands are those of the one for CUDA.
_SAME_FORMULA = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _aten._scaled_dot_product_flash_attention_backward,
}


class FlopCounter:
    """Adds what each micro-batch costs to the state's `total_flos`.

    Arguments:
        trainer: Whose `floating_point_ops` is asked first.
    """

    def __init__(self, trainer: TrainingHooks) -> None:
        self.trainer = trainer
        self._counts: dict[Any, float] = {}
        self._saved: dict[str, float] = {}
        self._num_trained = 0
        # Processes that train together do the same work, but for a last batch that is short.
        self._times = trainer.ranks.size
        # Compiled code can't be looked into, and a run of the same module uncompiled would cost memory and time.
        self._is_off = any(map(_is_compiled, (trainer.model_wrapped, *trainer.model.modules())))

    def begin_epoch(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take note of what is trained: what callbacks freeze has no gradient to compute."""
        self._num_trained = sum(parameter.requires_grad for parameter in parameters)

    def counting(self, inputs: Any) -> AbstractContextManager[Any]:
        """Return the context to train on a micro-batch in, which adds the operations of that to `total_flos`."""
        own = self.trainer.floating_point_ops(inputs)
        if own is not None:
            self.trainer.state.total_flos += own * self._times
            return _NOTHING
        form = (self._num_trained, _form(inputs))
        known = self._counts.get(form)
        if known is not None:
            self.trainer.state.total_flos += known * self._times
            return _NOTHING
        return _NOTHING if self._is_off else self._first_of(form)

    @contextmanager
    def _first_of(self, form: Any) -> Iterator[None]:
        count = self._saved.pop(repr(form), None)
        if count is None:
            operations = _Operations()
            with _uncompiled(), operations:
                yield
            if operations.error is not None:
                self._give_up(operations.error)
                return
            count = float(operations.total)
        else:
            yield
        if len(self._counts) >= _MOST_FORMS:
            del self._counts[next(iter(self._counts))]
        self._counts[form] = count
        self.trainer.state.total_flos += count * self._times

    def _give_up(self, error: Exception) -> None:
        self._is_off = True
        total = self.trainer.state.total_flos
        logger.warning("total_flos: operations can't be counted here, it stays at %s: %s", total, describe(error))

    def state(self) -> dict[str, Any]:
        """Return the counts, JSON-able."""
        counts = self._saved | {repr(form): count for form, count in self._counts.items()}
        return {"counts": counts, "is_off": self._is_off}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the counts that `state` returned."""
        self._saved = dict(state["counts"])
        self._is_off = self._is_off or state["is_off"]


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's __init_subclass__ has no types
    """Adds up the operations of everything that torch runs; much lighter than torch's `FlopCounterMode`.

    That one also hooks every module, to say where the operations are, and runs both branches of a `torch.cond`.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        from torch.utils.flop_counter import flop_registry  # noqa: PLC0415 -- 8 ms, for those who train

        self._formulas = flop_registry
        self.total = 0
        self.error: Exception | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = getattr(func, "_overloadpacket", func)
        formula = self._formulas.get(_SAME_FORMULA.get(packet, packet))
        if formula is not None and self.error is None:
            try:
                self.total += formula(*args, **kwargs, out_val=out)
            except Exception as error:  # a formula's trouble is none of the training's
                self.error = error
        return out


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Let functions that are compiled run as they are written: met in a dispatch mode, they never would compile."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules


def _form(inputs: Any) -> Any:
    """Return what tells batches apart whose operations may differ in number: names and shapes."""
    if isinstance(inputs, torch.Tensor):
        return tuple(inputs.shape)
    if isinstance(inputs, dict) or isinstance(inputs, Mapping):  # noqa: SIM101 -- dict first: it is 10 times as fast
        return (*inputs, *map(_form, inputs.values()))
    if isinstance(inputs, (list, tuple)):
        return tuple(map(_form, inputs))
    return None
