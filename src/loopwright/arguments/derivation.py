"""Arguments that follow from others where they weren't given."""

from __future__ import annotations

import logging
from collections.abc import Callable

from loopwright._support.log import ROOT_NAME
from loopwright.arguments.fields import ArgumentFields


def derive_checkpointing(args: ArgumentFields) -> None:
    """Activation checkpointing that wasn't asked for is off, under both names."""
    if args.gradient_checkpointing is None:
        args.gradient_checkpointing = args.activation_checkpointing = False


def derive_progress_bar(args: ArgumentFields) -> None:
    """Whoever has silenced warnings wants no progress bar."""
    if args.disable_tqdm is None:
        args.disable_tqdm = logging.getLogger(ROOT_NAME).getEffectiveLevel() > logging.WARNING


def derive_do_eval(args: ArgumentFields) -> None:
    """A strategy for evaluation is a wish to evaluate."""
    if args.eval_strategy != "no":
        args.do_eval = True


def derive_eval_steps(args: ArgumentFields) -> None:
    """Evaluate as often as the run logs."""
    if args.eval_strategy == "steps" and not args.eval_steps:
        args.eval_steps = args.logging_steps


def derive_best_metric(args: ArgumentFields) -> None:
    """What needs a metric takes the loss; a loss is better when smaller."""
    if args.metric_for_best_model is None and (
        args.load_best_model_at_end or args.save_top_k or args.lr_scheduler_type == "reduce_lr_on_plateau"
    ):
        args.metric_for_best_model = "loss"
    if args.greater_is_better is None and args.metric_for_best_model is not None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")


def derive_compilation(args: ArgumentFields) -> None:
    """To name a backend or a mode is to ask for compilation."""
    if args.torch_compile_backend is not None or args.torch_compile_mode is not None:
        args.torch_compile = True
    if args.torch_compile and args.torch_compile_backend is None:
        args.torch_compile_backend = "inductor"


def derive_pinned_memory(args: ArgumentFields) -> None:
    """Pinned memory is for copying to a GPU."""
    if args.use_cpu:
        args.dataloader_pin_memory = False


DERIVATIONS: tuple[Callable[[ArgumentFields], None], ...] = (
    derive_checkpointing,
    derive_progress_bar,
    derive_do_eval,
    derive_eval_steps,
    derive_best_metric,
    derive_compilation,
    derive_pinned_memory,
)
