"""Tell going on from branching off: a resumed run that is another training gets an id of its own.

A run is resumed where its newest checkpoint is taken up with the arguments it was made with. From an older checkpoint,
or with other arguments, what follows contradicts what was recorded: it is a new run that names its parent.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.checkpoint.layout import TRAINING_ARGS_NAME, list_checkpoints, step_of, why_unreadable
from loopwright.checkpoint.reader import load_loopwright_state
from loopwright.checkpoint.verify import find_damage
from loopwright.errors import CheckpointError, JournalError
from loopwright.journal.reader import JournalReader
from loopwright.journal.values import decode, encode
from loopwright.records import Kind

if TYPE_CHECKING:
    from loopwright.arguments import TrainingArguments

# Arguments that change nothing about the numbers, or next to nothing.
_HARMLESS = frozenset(
    {
        "callback_errors",
        "dataloader_num_workers",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "disable_tqdm",
        "do_eval",
        "do_predict",
        "do_train",
        "enable_jit_checkpoint",
        "log_level",
        "log_level_replica",
        "ddp_backend",
        "ddp_broadcast_buffers",
        "ddp_bucket_cap_mb",
        "ddp_find_unused_parameters",
        "ddp_static_graph",
        "ddp_timeout",
        "local_rank",
        "log_on_each_node",
        "logging_async",
        "logging_dir",
        "max_hours",
        "output_dir",
        "overwrite_output_dir",
        "project",
        "report_to",
        "restore_callback_states_from_checkpoint",
        "resume_from_checkpoint",
        "run_name",
        "save_async",
        "save_async_busy",
        "save_errors",
        "save_every_minutes",
        "save_on_exception",
        "save_top_k",
        "save_total_limit",
        "signal_action",
        "skip_memory_metrics",
        "tracker_call_timeout",
        "tracker_close_timeout",
        "tracker_open_timeout",
    }
)
# How an update's examples are spread over processes and micro-batches; that they are as many is seen to elsewhere.
_SPREAD = ("per_device_train_batch_size", "gradient_accumulation_steps")


def why_branch(checkpoint: Path, output_dir: str, args: TrainingArguments) -> str | None:
    """Return why going on from `checkpoint` begins another run, or None where it continues the one that wrote it."""
    if newer := _newer_of_same_run(checkpoint, output_dir):
        return f"{newer.name} is newer"
    if changed := _changed_arguments(checkpoint, args, ignored=_SPREAD if spreads_anew(checkpoint, args) else ()):
        return f"arguments differ: {', '.join(changed)}"
    return None


def restarted_run(output_dir: str, args: TrainingArguments) -> str | None:
    """Return the id of the run that a new start does over again, or None.

    That is the newest run of the journal, where it broke off before its first checkpoint and had the same arguments:
    the same numbers come again, and trackers go on with the run that they have.
    """
    try:
        with JournalReader(output_dir) as reader:
            run = reader.runs()[-1]
            attempts = reader.attempts(run.id)
            has_saved = bool(reader.records(run.id, kinds=[Kind.CHECKPOINT], limit=1))
    except (JournalError, IndexError):
        return None
    newest = attempts[-1]
    if has_saved or newest.purpose != "training" or newest.status.is_success:
        return None
    return None if _changed(run.arguments, decode(encode(args.to_dict())[0])) else run.id


def ended_in_order(output_dir: str, run_id: str) -> bool:
    """Return whether the run's newest attempt ended by itself or because a callback stopped it.

    Where nothing is recorded of it the answer is yes: who resumes a run wants it to go on.
    """
    try:
        with JournalReader(output_dir) as reader:
            attempts = reader.attempts(run_id)
    except JournalError:
        return True
    return not attempts or attempts[-1].status.is_success


def _newer_of_same_run(checkpoint: Path, output_dir: str) -> Path | None:
    run_id = (load_loopwright_state(checkpoint) or {}).get("run_id")
    step = step_of(checkpoint)
    if run_id is None or step is None:
        return None
    for path in reversed(list_checkpoints(output_dir)):
        if (step_of(path) or 0) <= step:
            return None
        if _run_of(path) == run_id and not find_damage(path):
            return path
    return None


def _run_of(checkpoint: Path) -> str | None:
    try:
        return (load_loopwright_state(checkpoint) or {}).get("run_id")
    except CheckpointError:
        return None


def spreads_anew(checkpoint: Path, args: TrainingArguments) -> bool:
    """Return whether `checkpoint` was made by another number of processes than trains now."""
    before = (load_loopwright_state(checkpoint) or {}).get("spread")
    return before is not None and before["processes"] != args.world_size


def _changed_arguments(checkpoint: Path, args: TrainingArguments, *, ignored: Collection[str]) -> list[str]:
    if why_unreadable(checkpoint, TRAINING_ARGS_NAME):  # written by another library
        return []
    try:
        before: Any = json.loads((checkpoint / TRAINING_ARGS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(before, dict):
        return []
    return _changed(
        {name: value for name, value in before.items() if name not in ignored}, json.loads(args.to_json_string())
    )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}={now[name]!r} was {before[name]!r}"
        for name in now
        if name in before and name not in _HARMLESS and now[name] != before[name]
    ]
