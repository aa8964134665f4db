"""Arguments of transformers 4.47 that version 5 dropped, and that Loopwright honours at their defaults only.

The fields exist so that command lines and files of that time are answered with advice, not with "unknown argument".
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(init=False, repr=False, eq=False)
class RetiredArguments:
    """What is left of version 4; each is refused at another value."""

    save_safetensors: bool = True
    """Refused when False: models are saved as safetensors."""

    use_mps_device: bool = False
    """Refused: MPS is used by itself."""

    half_precision_backend: str = "auto"
    """Refused at another value: torch's autocast is the only one."""

    fp16_backend: str = "auto"
    """Refused at another value: torch's autocast is the only one."""

    fp16_opt_level: str = "O1"
    """Refused at another value: Apex's level."""

    jit_mode_eval: bool = False
    """Refused: evaluating through `torch.jit.trace`."""

    use_ipex: bool = False
    """Refused: Intel's extension."""

    past_index: int = -1
    """Refused: feeding the hidden state of one batch to the next."""

    use_legacy_prediction_loop: bool = False
    """Refused: the prediction loop of old."""

    ray_scope: str = "last"
    """Refused at another value: Ray's choice of the best trial."""

    mp_parameters: str = ""
    """Refused: SageMaker's model parallelism."""

    tpu_num_cores: int | None = None
    """Refused: the number of TPU cores."""

    tpu_metrics_debug: bool = False
    """Refused: measurements on TPUs."""

    dispatch_batches: bool | None = field(default=None, metadata={"nargs": "?", "const": True})
    """Refused: one process loading for all."""

    split_batches: bool | None = field(default=None, metadata={"nargs": "?", "const": True})
    """Refused: splitting one batch over all processes."""

    fsdp_min_num_params: int = 0
    """Refused: it is a key of `fsdp_config`."""

    fsdp_transformer_layer_cls_to_wrap: str | None = None
    """Refused: it is a key of `fsdp_config`."""

    push_to_hub_model_id: str | None = None
    """Refused: the repository to push to."""

    push_to_hub_organization: str | None = None
    """Refused: whose repository to push to."""

    push_to_hub_token: str | None = None
    """Refused: the token to push with."""
