"""Rules that concern several arguments at once, one function each."""

from __future__ import annotations

import math
from collections.abc import Callable

from loopwright.arguments.fields import ArgumentFields
from loopwright.arguments.sharding import check_sharding
from loopwright.errors import ArgumentError


def check_logging_steps(args: ArgumentFields) -> None:
    """To log by steps needs a number of them."""
    if args.logging_strategy == "steps" and args.logging_steps == 0:
        raise ArgumentError("logging_steps=0: expected more than 0 with logging_strategy='steps'")


def check_eval_steps(args: ArgumentFields) -> None:
    """To evaluate by steps needs a number of them, if need be that of logging."""
    if args.eval_strategy == "steps" and not args.eval_steps:
        raise ArgumentError(
            f"eval_steps={args.eval_steps!r}: expected more than 0 with eval_strategy='steps', "
            f"or logging_steps above 0 to take its place (it is {args.logging_steps!r})"
        )


def check_best_model_strategies(args: ArgumentFields) -> None:
    """The best models can be told and kept only if they were saved: at an evaluation."""
    if not (wanted := _wants_best(args)) or args.save_strategy == "best":
        return
    if args.eval_strategy != args.save_strategy:
        raise ArgumentError(
            f"{wanted} with eval_strategy={args.eval_strategy!r} and "
            f"save_strategy={args.save_strategy!r}: expected both to be the same, or save_strategy='best'"
        )


def check_best_model_steps(args: ArgumentFields) -> None:
    """Every save has to fall on an evaluation."""
    if not (wanted := _wants_best(args)) or not args.eval_strategy == args.save_strategy == "steps":
        return
    eval_steps, save_steps = args.eval_steps or 0, args.save_steps
    found = f"{wanted} with save_steps={save_steps!r} and eval_steps={eval_steps!r}"
    if (eval_steps < 1) is not (save_steps < 1):
        raise ArgumentError(f"{found}: expected both as whole steps, or both as shares of all steps")
    # The quotient of shares such as 0.3 and 0.1 isn't a whole number in floating point.
    ratio = save_steps / eval_steps
    if not math.isclose(ratio, round(ratio), rel_tol=1e-9):
        raise ArgumentError(f"{found}: expected save_steps to be a multiple of eval_steps")


def _wants_best(args: ArgumentFields) -> str | None:
    if args.load_best_model_at_end:
        return "load_best_model_at_end=True"
    return None if args.save_top_k is None else f"save_top_k={args.save_top_k!r}"


def check_async_options(args: ArgumentFields) -> None:
    """What is said about saves that run beside training needs such."""
    if args.save_async_busy == "skip" and not args.save_async:
        raise ArgumentError("save_async_busy='skip' with save_async=False: expected save_async=True")


def check_signals_are_seen(args: ArgumentFields) -> None:
    """A checkpoint at a signal needs signals to be looked at."""
    if args.enable_jit_checkpoint and args.signal_action == "off":
        raise ArgumentError("enable_jit_checkpoint=True with signal_action='off': expected 'exit' or 'return'")


def check_one_half_precision(args: ArgumentFields) -> None:
    """There is one mixed precision at a time."""
    for one, other in (("fp16", "bf16"), ("fp16_full_eval", "bf16_full_eval")):
        if getattr(args, one) and getattr(args, other):
            raise ArgumentError(f"{one}=True and {other}=True: expected one of them at most")


def check_plateau_is_evaluated(args: ArgumentFields) -> None:
    """A schedule that follows a metric needs one."""
    if args.lr_scheduler_type == "reduce_lr_on_plateau" and args.eval_strategy == "no":
        raise ArgumentError(
            "eval_strategy='no' with lr_scheduler_type='reduce_lr_on_plateau', which goes by the evaluations: "
            "expected 'steps' or 'epoch'"
        )


def check_worker_options(args: ArgumentFields) -> None:
    """What is said about loading processes needs some."""
    if args.dataloader_num_workers > 0:
        return
    for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        if value := getattr(args, name):
            raise ArgumentError(f"{name}={value!r} with dataloader_num_workers=0: expected at least 1 worker")


RULES: tuple[Callable[[ArgumentFields], None], ...] = (
    check_logging_steps,
    check_eval_steps,
    check_best_model_strategies,
    check_best_model_steps,
    check_async_options,
    check_signals_are_seen,
    check_one_half_precision,
    check_plateau_is_evaluated,
    check_worker_options,
    check_sharding,
)


def check_rules(args: ArgumentFields) -> None:
    """Apply every rule.

    Raises:
        ArgumentError: arguments contradict each other.
    """
    for rule in RULES:
        rule(args)
