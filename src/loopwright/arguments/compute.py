"""What is traded between memory, time and compilation."""

from __future__ import annotations

from dataclasses import dataclass, field

from loopwright.arguments.annotations import Options


@dataclass(init=False, repr=False, eq=False)
class ComputeArguments:
    """Activation checkpointing, compilation, caches and kernels."""

    gradient_checkpointing: bool | None = field(default=None, metadata={"nargs": "?", "const": True})
    """Compute activations anew in the backward pass instead of keeping them: less memory, more time."""

    gradient_checkpointing_kwargs: Options = None
    """Arguments for the model's `gradient_checkpointing_enable`; from a command line, as JSON."""

    activation_checkpointing: bool | None = field(default=None, metadata={"nargs": "?", "const": True})
    """Newer name of `gradient_checkpointing`; both always hold the same."""

    activation_checkpointing_kwargs: Options = None
    """Newer name of `gradient_checkpointing_kwargs`; both always hold the same."""

    torch_compile: bool = False
    """Compile the model with `torch.compile`."""

    torch_compile_backend: str | None = None
    """Backend of `torch.compile`; to give one is to ask for compilation. The default is "inductor"."""

    torch_compile_mode: str | None = None
    """Mode of `torch.compile`, such as "max-autotune"; to give one is to ask for compilation."""

    use_cache: bool = False
    """What to set `model.config.use_cache` to: the cache of keys and values that generation uses."""

    torch_empty_cache_steps: int | None = None
    """Empty the device's memory cache every so many steps: lower peaks, slower steps. None never does."""

    use_liger_kernel: bool = False
    """Refused: Liger kernels patched into the model."""

    liger_kernel_config: Options = None
    """Refused: which Liger kernels."""
