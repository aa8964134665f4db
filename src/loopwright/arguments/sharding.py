"""Read `fsdp` and `fsdp_config`: transformers' words for what torch's `fully_shard` does; the rest is refused by name.

`fsdp` is on or off, or says in words of version 4 also how ("full_shard auto_wrap offload"). `fsdp_config` has
everything else: a dict or a JSON file, whose keys may begin with "fsdp_".
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwright.arguments.conversion import UnfitError, convert
from loopwright.arguments.fields import ArgumentFields
from loopwright.errors import ArgumentError, UnsupportedArgument

# What each word of version 4 says, in keys of `fsdp_config`.
_WORDS: dict[str, dict[str, Any]] = {
    "full_shard": {"reshard_after_forward": True},
    "shard_grad_op": {"reshard_after_forward": False},
    "hybrid_shard": {"reshard_after_forward": True, "hybrid": True},
    "hybrid_shard_zero2": {"reshard_after_forward": False, "hybrid": True},
    "offload": {"cpu_offload": True},
    "auto_wrap": {},
}
_STATE_DICT_TYPES = ("SHARDED_STATE_DICT", "FULL_STATE_DICT")
_POLICIES = ("TRANSFORMER_BASED_WRAP", "SIZE_BASED_WRAP", "NO_WRAP")
# Switches of FSDP1, of which FSDP2 always has the one side.
_FIXED: dict[str, tuple[Any, ...]] = {
    "version": (2,),
    "use_orig_params": (True,),
    "sync_module_states": (True,),
    "limit_all_gathers": (True,),
    "forward_prefetch": (False,),
    "backward_prefetch": ("BACKWARD_PRE", "NO_PREFETCH"),
    "cpu_ram_efficient_loading": (False,),
    "xla": (False,),
    "xla_fsdp_v2": (False,),
    "xla_fsdp_grad_ckpt": (False,),
    "xla_fsdp_settings": ({},),
}


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How a model is to be sharded.

    Attributes:
        layers: Class names of the layers that are sharded each by itself.
        min_num_params: In place of that: parameters from which on a module is.
        by_itself: Whether layers are looked for at all; the model is one shard group otherwise.
        reshard_after_forward: Whether a layer's parameters are let go between forward and backward.
        hybrid: Whether to shard within each machine, and keep a copy on each.
        cpu_offload: Whether parameters and optimizer state are kept in the CPU's memory.
        activation_checkpointing: Whether a layer's activations are computed again in the backward pass.
        writes_shards: Whether each process writes its own part of a checkpoint, instead of the first one all.
    """

    layers: tuple[str, ...] = ()
    min_num_params: int = 0
    by_itself: bool = True
    reshard_after_forward: bool = True
    hybrid: bool = False
    cpu_offload: bool = False
    activation_checkpointing: bool = False
    writes_shards: bool = True


def read_config(value: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """Return the dict that `fsdp_config` is or that the JSON file of this name holds, without the prefix of its keys.

    Raises:
        ArgumentError: the file can't be read, or holds something else.
    """
    if isinstance(value, str):
        path = value
        try:
            value = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArgumentError(
                f"fsdp_config={path!r}: expected a dict or a JSON file that holds one: {error}"
            ) from error
        if not isinstance(value, dict):
            raise ArgumentError(f"fsdp_config={path!r}: expected a dict in there, not a {type(value).__name__}")
    return None if value is None else {str(key).removeprefix("fsdp_"): one for key, one in value.items()}


def sharding_of(args: ArgumentFields) -> Sharding | None:
    """Return how `args` have the model sharded; None where they don't.

    Raises:
        ArgumentError: a word, a key or a value is unknown.
        UnsupportedArgument: it is one of FSDP1's that FSDP2 has no counterpart for.
    """
    if not args.fsdp:
        return None
    config = _from_words(args.fsdp) | (read_config(args.fsdp_config) or {})
    read: dict[str, Any] = {"hybrid": config.pop("hybrid", False)}
    for key, value in config.items():
        if key in _FIXED:
            _check_fixed(key, value)
        elif key in _KEYS:
            read |= _read(key, value)
        else:
            known = ", ".join([*_KEYS, *_FIXED])
            raise ArgumentError(f"fsdp_config[{key!r}]={value!r}: there is no such key; expected {known}")
    return dataclasses.replace(Sharding(), **read)


def check_sharding(args: ArgumentFields) -> None:
    """Sharding has to be sayable, and go with the other arguments."""
    if sharding_of(args) is not None and args.fp16:
        raise UnsupportedArgument("fp16=True with fsdp: gradient scales aren't kept across shards; use bf16=True")


def _from_words(given: Any) -> dict[str, Any]:
    words = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    config: dict[str, Any] = {}
    for word in words:
        if word == "no_shard":
            raise UnsupportedArgument(f"fsdp={given!r}: no_shard is what DDP does; leave fsdp out")
        if word not in _WORDS:
            raise ArgumentError(f"fsdp={given!r}: expected True, or words of {', '.join(_WORDS)}")
        config |= _WORDS[word]
    return config


def _check_fixed(key: str, value: Any) -> None:
    allowed = _FIXED[key]
    kind = type(allowed[0])
    try:
        found = convert(value, kind)
    except UnfitError:
        found = value
    if kind is str and isinstance(found, str):
        found = found.upper()
    if found not in allowed:
        raise UnsupportedArgument(
            f"fsdp_config[{key!r}]={value!r} is not supported: FSDP2 has {' or '.join(map(repr, allowed))} alone"
        )


def _read(key: str, value: Any) -> dict[str, Any]:
    expected, read = _KEYS[key]
    try:
        return read(value)
    except (UnfitError, ValueError, TypeError):
        raise ArgumentError(f"fsdp_config[{key!r}]={value!r}: expected {expected}") from None


def _flag(name: str) -> tuple[str, Callable[[Any], dict[str, Any]]]:
    return "True or False", lambda value: {name: convert(value, bool)}


def _read_layers(value: Any) -> dict[str, Any]:
    names = value.split(",") if isinstance(value, str) else list(value or ())
    if not all(isinstance(name, str) for name in names):
        raise TypeError
    return {"layers": tuple(name.strip() for name in names if name.strip())}


def _read_size(value: Any) -> dict[str, Any]:
    size = int(convert(value, int))
    if size < 0:
        raise ValueError
    return {"min_num_params": size}


def _read_policy(value: Any) -> dict[str, Any]:
    return {"by_itself": _POLICIES[_POLICIES.index(str(value).upper())] != "NO_WRAP"}


def _read_reshard(value: Any) -> dict[str, Any]:
    as_before: Mapping[Any, bool] = {"FULL_SHARD": True, "SHARD_GRAD_OP": False}
    known = as_before.get(value.upper()) if isinstance(value, str) else None
    return {"reshard_after_forward": convert(value, bool) if known is None else known}


def _read_state_dict_type(value: Any) -> dict[str, Any]:
    return {"writes_shards": _STATE_DICT_TYPES.index(str(value).upper()) == 0}


_KEYS: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "transformer_layer_cls_to_wrap": ("names of classes: a list, or text with commas", _read_layers),
    "min_num_params": ("a whole number, 0 or more", _read_size),
    "auto_wrap_policy": (", ".join(_POLICIES), _read_policy),
    "reshard_after_forward": ("True or False", _read_reshard),
    "cpu_offload": _flag("cpu_offload"),
    "offload_params": _flag("cpu_offload"),
    "activation_checkpointing": _flag("activation_checkpointing"),
    "state_dict_type": (" or ".join(_STATE_DICT_TYPES), _read_state_dict_type),
}
