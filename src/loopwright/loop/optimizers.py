"""Make the optimizer that the arguments ask for, with weight decay where it belongs.

What comes out is what transformers 5 makes from the same arguments, with one exception: `optim="adafactor"` is torch's
own Adafactor. torch bounds each step by `1 / sqrt(step)` and multiplies it with the root mean square of the parameter;
transformers' version, as its Trainer sets it up, takes the learning rate as it is. The same `learning_rate` therefore
moves the weights differently.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from loopwright._support.log import Logger, get_logger, warn_once
from loopwright.errors import ArgumentError, UnsupportedArgument

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments

logger: Logger = get_logger(__name__)

# Biases, and whatever lies inside a module that is named as a normalization.
_NAMED_WITHOUT_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.|_)norm(?:$|\.)")
_UNDECAYED_TYPES = (nn.LayerNorm,)

_YES = frozenset({"true", "1", "yes"})
_NO = frozenset({"false", "0", "no"})

# These stand for the parameters in the keywords of a ready-made choice; of several, the last counts.
_PARAMETER_KEYWORDS = ("params", "model", "optimizer_dict")


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _truth(text: str) -> bool:
    word = text.lower()
    if word not in _YES | _NO:
        raise ValueError(text)
    return word in _YES


_EXPECTED: dict[Callable[[str], Any], str] = {_number: "a finite number", _truth: "true or false"}


@dataclass(frozen=True)
class _Choice:
    """What one name of `args.optim` stands for.

    Attributes:
        optimizer: The class.
        keywords: What it gets besides the learning rate.
        uses_adam: Whether it gets `adam_beta1`, `adam_beta2` and `adam_epsilon`.
        takes: Which keys it has in `optim_args`, and how their text is read.
    """

    optimizer: type[torch.optim.Optimizer]
    keywords: dict[str, Any] = field(default_factory=dict)
    uses_adam: bool = False
    takes: dict[str, Callable[[str], Any]] = field(default_factory=dict)


_CHOICES: dict[str, _Choice] = {
    "adamw_torch": _Choice(torch.optim.AdamW, uses_adam=True),
    "adamw_torch_fused": _Choice(torch.optim.AdamW, {"fused": True}, uses_adam=True),
    "adafactor": _Choice(torch.optim.Adafactor, takes={"beta2_decay": _number, "d": _number}),
    "sgd": _Choice(
        torch.optim.SGD,
        takes={"momentum": _number, "dampening": _number, "weight_decay": _number, "nesterov": _truth},
    ),
    "adagrad": _Choice(torch.optim.Adagrad, takes={"lr_decay": _number, "weight_decay": _number, "eps": _number}),
    "rmsprop": _Choice(
        torch.optim.RMSprop,
        takes={
            "momentum": _number,
            "alpha": _number,
            "eps": _number,
            "weight_decay": _number,
            "centered": _truth,
        },
    ),
}


def optimizer_class_and_kwargs(
    args: TrainingArguments, model: nn.Module | None = None
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Return the class that `args.optim` names, and its keywords.

    Arguments:
        args: `optim`, `optim_args`, `learning_rate`, `weight_decay`, `adam_beta1`, `adam_beta2` and `adam_epsilon` are
            read.
        model: Not used by any of these optimizers; taken for overrides written for transformers.

    Raises:
        UnsupportedArgument: an optimizer that Loopwright doesn't have.
        ArgumentError: `optim_args` holds something that this optimizer can't use, or a weight decay that isn't
            `args.weight_decay`.
    """
    name = _plain(args.optim)
    choice = _CHOICES.get(name)
    if choice is None:
        raise UnsupportedArgument(
            f"optim={name!r}: expected one of {', '.join(_CHOICES)}; hand any other optimizer to the Trainer as "
            "optimizers=(optimizer, None) or optimizer_cls_and_kwargs=(its class, its keywords)"
        )
    keywords: dict[str, Any] = {"lr": args.learning_rate, **choice.keywords}
    if choice.uses_adam:
        keywords.update(betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
    parsed = _parse_optim_args(args.optim_args, name, choice.takes)
    _refuse_second_decay(args, parsed)
    return choice.optimizer, keywords | parsed


def _parse_optim_args(text: str | None, optim: str, takes: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for pair in (text or "").replace(" ", "").split(",") if text else ():
        key, equals, value = pair.partition("=")
        if not (key and equals and value):
            raise ArgumentError(f"optim_args={text!r}: expected key=value,key=value, found {pair!r}")
        if key not in takes:
            known = ", ".join(takes) or "none"
            raise ArgumentError(f"optim_args={text!r}: optim={optim!r} has no key {key!r}; its keys: {known}")
        if key in parsed:
            raise ArgumentError(f"optim_args={text!r}: the key {key!r} is there twice")
        try:
            parsed[key] = takes[key](value)
        except ValueError:
            raise ArgumentError(f"optim_args={text!r}: {key}={value!r}, expected {_EXPECTED[takes[key]]}") from None
    return parsed


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters that weight decay is for.

    That is all but biases and the weights of normalizations: those of `LayerNorm` modules, and those whose name says so
    ("layernorm", "rmsnorm", or a part that is "norm" or ends in "_norm"), in any case of letters. The model itself
    being a `LayerNorm` exempts nothing.
    """
    exempt = tuple(
        f"{name}."
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _UNDECAYED_TYPES)  # the model itself has the name "", and "." begins no parameter's
    )
    return [
        name
        for name, _ in model.named_parameters(remove_duplicate=False)
        if not name.startswith(exempt) and not _NAMED_WITHOUT_DECAY.search(name.lower())
    ]


def parameter_groups(
    model: nn.Module, weight_decay: float, decayed_names: list[str] | None = None
) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: with weight decay, then without.

    Arguments:
        model: Whose parameters; those without `requires_grad` are left out.
        weight_decay: Of the first group.
        decayed_names: Which parameters those are; by default `decay_parameter_names(model)`.
    """
    decayed = set(decay_parameter_names(model) if decayed_names is None else decayed_names)
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name not in decayed].append(parameter)
    return [{"params": groups[0], "weight_decay": weight_decay}, {"params": groups[1], "weight_decay": 0.0}]


def build_optimizer(
    model: nn.Module,
    args: TrainingArguments,
    cls_and_kwargs: tuple[Any, dict[str, Any]] | None = None,
    decayed_names: list[str] | None = None,
) -> torch.optim.Optimizer:
    """Return the optimizer of `model`; unfused where torch can't fuse it for every parameter.

    Arguments:
        model: Whose parameters it updates.
        args: `weight_decay`, and unless `cls_and_kwargs` is given what `optimizer_class_and_kwargs` reads.
        cls_and_kwargs: An optimizer class and its keywords. A keyword `params`, `model` or `optimizer_dict` is handed
            to it in place of the parameter groups. What is no optimizer class counts as a factory: it is called without
            arguments, and what that returns with the model and the keywords. The dictionary is not changed.
        decayed_names: Which parameters decay; by default `decay_parameter_names(model)`.
    """
    optimizer_class, given = optimizer_class_and_kwargs(args, model) if cls_and_kwargs is None else cls_and_kwargs
    keywords = dict(given)
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
        made: torch.optim.Optimizer = optimizer_class()(model, **keywords)
        return made
    if keywords.get("fused") and not _can_fuse(model, optimizer_class):
        del keywords["fused"]
    replacements = [keywords.pop(key) for key in _PARAMETER_KEYWORDS if key in keywords]
    if replacements:
        return optimizer_class(replacements[-1], **keywords)
    _mention_unused_decay(args, keywords)
    return optimizer_class(parameter_groups(model, args.weight_decay, decayed_names), **keywords)


def _refuse_second_decay(args: TrainingArguments, parsed: Mapping[str, Any]) -> None:
    # Each group has its own weight_decay, so the optimizer's default, which this would set, is never looked at.
    if parsed.get("weight_decay", args.weight_decay) != args.weight_decay:
        raise ArgumentError(
            f"optim_args={args.optim_args!r}: its weight_decay would have no effect beside the argument "
            f"weight_decay={args.weight_decay!r}; set that one"
        )


def _mention_unused_decay(args: TrainingArguments, keywords: Mapping[str, Any]) -> None:
    decay = keywords.get("weight_decay", args.weight_decay)
    if decay != args.weight_decay:
        warn_once(
            logger,
            f"optimizer_cls_and_kwargs: its weight_decay={decay!r} has no effect (nor in transformers); that of the "
            f"arguments has, weight_decay={args.weight_decay!r}",
        )


def _can_fuse(model: nn.Module, optimizer_class: type[torch.optim.Optimizer]) -> bool:
    """Return whether torch has fused kernels for all that is to be trained; where not, say once why."""
    if optimizer_class.__module__.partition(".")[0] != "torch":  # what `fused` means elsewhere is for that class to say
        return True
    kinds = {(parameter.device, parameter.dtype) for parameter in model.parameters() if parameter.requires_grad}
    for device, dtype in sorted(kinds, key=str):
        # Asked by trying: which devices and formats torch can fuse for changes with its versions, and it refuses at
        # the first step, not when the optimizer is made.
        probe = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
        probe.grad = torch.zeros_like(probe)
        try:
            optimizer_class([probe], fused=True).step()  # type: ignore[call-arg]  # torch's own, which have it
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            warn_once(logger, f"the optimizer runs unfused, torch can't fuse it for {dtype} on {device}: {reason}")
            return False
    return True


def _plain(name: Any) -> str:
    """Return the text of a string or of a str enum's member."""
    return str(getattr(name, "value", name))
