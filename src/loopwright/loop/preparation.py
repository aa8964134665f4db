"""Check what a Trainer is built of, and make its model ready to train."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from loopwright._support.log import get_logger
from loopwright.arguments.sharding import sharding_of
from loopwright.data.loaders import has_length
from loopwright.errors import ArgumentError, UnsupportedArgument
from loopwright.loop.metric_objects import check_mergeable, is_metric_object
from loopwright.runtime.fsdp import shard_model
from loopwright.runtime.wrapping import wrap_for_ranks

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments
    from loopwright.runtime.ranks import Ranks


def check_construction(  # noqa: PLR0913 -- the parts that must fit together
    args: TrainingArguments,
    *,
    model: Any,
    model_init: Any,
    train_dataset: Any,
    eval_dataset: Any,
    compute_metrics: Any,
    optimizers: tuple[Any, Any],
    optimizer_cls_and_kwargs: Any,
) -> None:
    """Refuse a Trainer whose parts are missing or contradict each other.

    Raises:
        ArgumentError: naming the parts.
    """
    if args.world_size > 1 and args.auto_find_batch_size and args.fsdp:
        raise UnsupportedArgument(
            f"auto_find_batch_size=True with fsdp={args.fsdp!r}: a model that is sharded can't be taken back to its "
            "beginning; find the size with a few steps of each"
        )
    _check_model(model, model_init, optimizers, optimizer_cls_and_kwargs)
    if args.fsdp and args.world_size > 1 and optimizers[0] is not None:
        raise ArgumentError(
            "optimizers with fsdp: the parameters it was made for are replaced when the model is sharded; give "
            "optimizer_cls_and_kwargs=(cls, kwargs), or override create_optimizer"
        )
    if args.eval_strategy != "no" and eval_dataset is None:
        raise ArgumentError(
            f"eval_strategy={str(args.eval_strategy)!r} needs an eval_dataset; set it to 'no' or pass one"
        )
    if (args.save_strategy == "best" or args.load_best_model_at_end) and args.metric_for_best_model is None:
        raise ArgumentError("save_strategy='best' and load_best_model_at_end need metric_for_best_model; it is None")
    if train_dataset is not None and not has_length(train_dataset) and args.max_steps <= 0:
        raise ArgumentError(
            f"max_steps={args.max_steps}: a train_dataset without a length needs max_steps > 0, which ends training "
            "and shapes the learning rate's course"
        )
    if args.eval_spill_dir is not None and not Path(args.eval_spill_dir).is_dir():
        raise ArgumentError(f"eval_spill_dir={args.eval_spill_dir!r}: expected a directory that is there")
    check_mergeable(compute_metrics, args.world_size)
    measures_batches = args.batch_eval_metrics and compute_metrics is not None and not is_metric_object(compute_metrics)
    if measures_batches and "compute_result" not in inspect.signature(compute_metrics).parameters:
        raise ArgumentError("batch_eval_metrics=True: compute_metrics must take compute_result (True at the end)")


def make_output_dir(args: TrainingArguments) -> None:
    """Make `output_dir`, where this process saves and it can be made.

    What can't be made now may be there when it is needed, as a disk that isn't mounted yet: journal and checkpoints say
    so then.

    Raises:
        ArgumentError: a file is in its place.
    """
    path = args.output_dir
    if not args.should_save:
        return
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArgumentError(f"output_dir={path!r}: expected a directory; a file is there, or above it") from error
    except OSError as error:
        get_logger(__name__).warning("output_dir=%r can't be made: %s", path, error)


def _check_model(model: Any, model_init: Any, optimizers: tuple[Any, Any], cls_and_kwargs: Any) -> None:
    if (model is None) == (model_init is None):
        raise ArgumentError("a Trainer needs exactly one of model and model_init")
    if model is not None and not isinstance(model, nn.Module):
        raise ArgumentError(f"model must be a torch.nn.Module, not a {type(model).__name__}")
    if cls_and_kwargs is not None and optimizers[0] is not None:
        raise ArgumentError("optimizers and optimizer_cls_and_kwargs both give an optimizer: pass one of them")
    if model_init is not None and any(part is not None for part in optimizers):
        raise ArgumentError("model_init makes new parameters for each train(): optimizers can't be made before it")


def prepare_model(model: nn.Module, args: TrainingArguments, ranks: Ranks) -> nn.Module:
    """Put `model` into training mode, with gradient checkpointing, processes and compilation as `args` say.

    Returns:
        What the loop should call: the model, or what is wrapped around it.
    """
    model.train()
    if args.gradient_checkpointing:
        _enable_gradient_checkpointing(model, args.gradient_checkpointing_kwargs)
    sharding = sharding_of(args)
    if sharding is not None and ranks.are_many:
        shard_model(model, args, sharding, ranks)
    elif sharding is not None:
        get_logger(__name__).warning("fsdp=%r: one process has nothing to share the model with", args.fsdp)
    elif ranks.are_many:
        model = wrap_for_ranks(model, args)
    if args.torch_compile:
        compiled: nn.Module = torch.compile(  # type: ignore[assignment]  # a module comes out where one goes in
            model, backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode
        )
        return compiled
    return model


def _enable_gradient_checkpointing(model: nn.Module, options: Any) -> None:
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):
        if callable(enable := getattr(model, name, None)):
            keyword = name.replace("enable", "kwargs")
            enable(**({keyword: options} if options else {}))
            return
    raise ArgumentError(
        f"gradient_checkpointing=True: {type(model).__name__} has no gradient_checkpointing_enable(); use "
        "torch.utils.checkpoint inside its forward instead"
    )
