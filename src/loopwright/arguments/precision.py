"""In which number formats the model computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(init=False, repr=False, eq=False)
class PrecisionArguments:
    """Mixed precision in training, whole precision in evaluation."""

    bf16: bool = False
    """Compute in bfloat16 where that is safe (autocast), on CPU too; weights stay as they are."""

    fp16: bool = False
    """Compute in float16 where that is safe (autocast), with a scaled loss; weights stay as they are."""

    bf16_full_eval: bool = False
    """Turn the whole model to bfloat16 for evaluation and prediction."""

    fp16_full_eval: bool = False
    """Turn the whole model to float16 for evaluation and prediction."""

    tf32: bool | None = None
    """Let CUDA multiply float32 matrices in TF32, or forbid it; None leaves torch's setting alone."""
