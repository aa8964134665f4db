"""Set, capture and restore the random states of Python, NumPy, torch's CPU and every accelerator.

What `capture_randomness` returns is what transformers keeps in `rng_state.pth`, so either library resumes from the
other's file.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import ArgumentError, CheckpointError

logger: Logger = get_logger(__name__)

_LARGEST_SEED = 2**32 - 1  # NumPy's limit; torch alone would take 64 bits

# CUDA, cuBLAS, Ascend and flash attention read these when they start, hence the environment.
_DETERMINISM_VARIABLES = {
    "CUDA_LAUNCH_BLOCKING": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":16:8",
    "ASCEND_LAUNCH_BLOCKING": "1",
    "HCCL_DETERMINISTIC": "1",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
}


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python's `random`, NumPy and torch, accelerators included.

    Arguments:
        seed: From 0 to 2**32 - 1.
        deterministic: Also have torch use deterministic algorithms, and raise where an operation has none.

    Raises:
        ArgumentError: `seed` is out of range.
    """
    if not 0 <= seed <= _LARGEST_SEED:
        raise ArgumentError(f"seed={seed!r}: expected a whole number from 0 to {_LARGEST_SEED}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # reaches every accelerator, now or when it is first used
    if deterministic:
        torch.use_deterministic_algorithms(True)


def enable_full_determinism(seed: int, warn_only: bool = False) -> None:
    """Seed everything and have torch, cuDNN and the accelerators' libraries compute reproducibly, at a cost in speed.

    Arguments:
        seed: As for `set_seed`.
        warn_only: Warn, rather than raise, where an operation has no deterministic algorithm.
    """
    set_seed(seed)
    os.environ.update(_DETERMINISM_VARIABLES)  # noqa: TID251 (others read them, we only write)
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def capture_randomness(*, accelerators: bool = True) -> dict[str, Any]:
    """Return the random states: "python", "numpy", "cpu", and one entry for each kind of accelerator in use.

    Arguments:
        accelerators: Whether theirs are wanted too; reading those waits for the device.
    """
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.get_rng_state(),
    }
    if accelerators:
        states |= {name: module.get_rng_state() for name, module in _accelerators_in_use().items()}
    return states


def restore_randomness(states: Mapping[str, Any], *, accelerators: bool = True) -> None:
    """Put back what `capture_randomness` returned; what this machine or `states` lacks is left alone, and said once.

    Arguments:
        states: The random states by name.
        accelerators: Whether `states` should hold those of the accelerators too.

    Raises:
        CheckpointError: an entry is not a random state.
    """
    setters: dict[str, Callable[[Any], Any]] = {
        "python": random.setstate,
        "numpy": np.random.set_state,
        "cpu": torch.set_rng_state,
    }
    if accelerators:
        setters |= {name: _setter(module) for name, module in _accelerators().items()}
    for name in sorted(states.keys() - setters.keys()):
        warn_once(logger, f"this machine has no {name!r} to restore the saved random state to")
    for name in ("python", "numpy", "cpu", *(_accelerators_in_use() if accelerators else ())):
        if name not in states:
            warn_once(logger, f"no random state of {name!r} was saved: its random numbers won't continue as they were")
    for name in setters.keys() & states.keys():
        _restore(name, setters[name], states[name])


def _restore(name: str, setter: Callable[[Any], Any], state: Any) -> None:
    try:
        setter(state)
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, OverflowError) as error:
        raise CheckpointError(f"the saved random state {name!r} can't be restored: {error}") from error


def _accelerators() -> dict[str, Any]:
    """Return torch's modules of the accelerators that this machine has."""
    modules: dict[str, Any] = {"cuda": torch.cuda, "mps": torch.mps, "xpu": torch.xpu}
    return {name: module for name, module in modules.items() if _is_available(name, module)}


def _is_available(name: str, module: Any) -> bool:
    return torch.backends.mps.is_available() if name == "mps" else bool(module.is_available())


def _accelerators_in_use() -> dict[str, Any]:
    """Return those that this process has used.

    One that was never used has no state to lose, and asking would start it: seconds, and a CUDA context.
    """
    return {
        name: module
        for name, module in _accelerators().items()
        if getattr(module, "is_initialized", lambda: True)()  # MPS can't say
    }


def _setter(module: Any) -> Callable[[Any], Any]:
    def restore(state: Any) -> None:
        # A distributed run of transformers saves a list, one state for each device.
        if isinstance(state, (list, tuple)):
            module.set_rng_state_all(state)
        else:
            module.set_rng_state(state)

    return restore
