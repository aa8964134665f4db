"""What Loopwright can't honour, and what to do instead: an argument is refused, never ignored.

To begin honouring one is to delete its row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from loopwright.arguments.choices import Choice
from loopwright.arguments.masking import is_secret, mask
from loopwright.errors import UnsupportedArgument


class Refusal(NamedTuple):
    """Why a whole argument is refused.

    Attributes:
        instead: What to do instead.
        harmless: Values beside the default that ask for nothing either; the default is kept for them.
    """

    instead: str
    harmless: tuple[Any, ...] = ()


_HUB = Refusal("push from a callback's on_save with huggingface_hub's upload_folder")
_TRACKIO = Refusal("run `trackio freeze` when the training has ended", harmless=(False,))
_ONE_PROCESS = Refusal("several processes are started by torchrun, and nothing else; leave it out")
_NO_ACCELERATE = Refusal("Loopwright doesn't use Accelerate; leave it out", harmless=({},))
_FSDP_CONFIG = Refusal("say it in fsdp_config, by the name without fsdp_")
_AUTOCAST = Refusal("bf16=True and fp16=True use torch's own autocast; leave it out", harmless=("amp", "cpu_amp"))
_NO_TPU = Refusal("Loopwright trains on CPU, CUDA and MPS; leave it out")

# Refused at any value but the default.
REFUSALS: dict[str, Refusal] = {
    "accelerator_config": _NO_ACCELERATE,
    "debug": Refusal("use torch.autograd.set_detect_anomaly or a callback", harmless=(None, [])),
    "deepspeed": Refusal(
        "Loopwright has no DeepSpeed, and trains in several processes by DDP; leave it out", harmless=("", {})
    ),
    "dispatch_batches": _NO_ACCELERATE,
    "eval_use_gather_object": _ONE_PROCESS,
    "fp16_backend": _AUTOCAST,
    "fp16_opt_level": _AUTOCAST,
    "fsdp_min_num_params": _FSDP_CONFIG,
    "fsdp_transformer_layer_cls_to_wrap": _FSDP_CONFIG,
    "half_precision_backend": _AUTOCAST,
    "hub_always_push": _HUB,
    "hub_model_id": _HUB,
    "hub_revision": _HUB,
    "hub_strategy": _HUB,
    "hub_token": _HUB,
    "jit_mode_eval": Refusal("use torch_compile=True"),
    "liger_kernel_config": Refusal("apply the kernels to the model before you give it to the Trainer", harmless=({},)),
    "mp_parameters": _ONE_PROCESS,
    "optim_target_modules": Refusal("give the Trainer optimizers or optimizer_cls_and_kwargs", harmless=([],)),
    "parallelism_config": _NO_ACCELERATE,
    "past_index": Refusal("override training_step and prediction_step"),
    "push_to_hub": _HUB,
    "push_to_hub_model_id": _HUB,
    "push_to_hub_organization": _HUB,
    "push_to_hub_token": _HUB,
    "ray_scope": Refusal("there is no search with Ray; leave it out"),
    "save_on_each_node": _ONE_PROCESS,
    "save_safetensors": Refusal("models are saved as safetensors, since no pickle is ever loaded; leave it out"),
    "split_batches": _NO_ACCELERATE,
    "tpu_metrics_debug": _NO_TPU,
    "tpu_num_cores": _NO_TPU,
    "trackio_static_space_id": _TRACKIO,
    "use_ipex": Refusal("use bf16=True, use_cpu=True and torch_compile=True"),
    "use_legacy_prediction_loop": Refusal("there is one prediction loop; override evaluation_loop for another"),
    "use_liger_kernel": Refusal("apply the kernels to the model before you give it to the Trainer"),
    "use_mps_device": Refusal("MPS is used by itself where there is one; leave it out"),
}

# What to do instead of a choice that transformers has and Loopwright doesn't honour, by argument.
REFUSED_CHOICES: dict[str, str] = {
    "lr_scheduler_type": "override the Trainer's create_scheduler, or give it optimizers=(optimizer, scheduler)",
    "optim": "give the Trainer any other as optimizer_cls_and_kwargs=(cls, kwargs) or optimizers=(optimizer, None)",
    "train_sampling_strategy": "override the Trainer's get_train_dataloader",
}


def asks_for_nothing(name: str, value: Any, default: Any) -> bool:
    """Return whether `value` is as good as the default of the refused argument `name`."""
    return any(_is_same(value, nothing) for nothing in (default, *REFUSALS[name].harmless))


def refuse(name: str, value: Any) -> UnsupportedArgument:
    """Return the error for an argument in `REFUSALS`."""
    shown = mask(name) if is_secret(name) else repr(value)
    return UnsupportedArgument(f"{name}={shown} is not supported: {REFUSALS[name].instead}")


def refuse_choice(name: str, value: Choice) -> UnsupportedArgument:
    """Return the error for a choice that is not honoured."""
    return UnsupportedArgument(
        f"{name}={value!r} is not supported: expected {value.describe_allowed(value)}, or {REFUSED_CHOICES[name]}"
    )


def _is_same(value: Any, nothing: Any) -> bool:
    # False == 0 in Python, but who writes False for a number, or 0 for a flag, may mean something else.
    return isinstance(value, bool) is isinstance(nothing, bool) and bool(value == nothing)
