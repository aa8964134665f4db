"""One training that is saved several times, in a worker: Loopwright's, transformers' and by hand, in several ways.

Each has the same model, the same fused AdamW and the same steps; `save_clock.py` says when to save and what it cost.
Only the newest checkpoint is kept; older ones are removed in the middle of a step, outside of what is measured.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from benchmarks.recipe import LEARNING_RATE, MAX_GRAD_NORM, SEED, Job, collate, make_loader, make_optimizer
from benchmarks.save_clock import SaveClock, summarize
from benchmarks.settings import Setting
from benchmarks.workloads import Examples, TimedModel

# More than are ever done: a training ends when its saves are measured.
_MANY_STEPS = 1_000_000
_NUM_CLASSES = 10
_WIDTH = 1024
_SMALL_WIDTH = 64
_SMALL_MEGABYTES = 20.0

State = dict[str, Any]
# Saves under a name that has no extension yet. A future says that it goes on meanwhile.
Save = Callable[[State, Path], "Future[Any] | None"]


class Sidewise(TimedModel):
    """Linear layers side by side, not one on top of the other: however many, each has a gradient of ordinary size."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))
        self.head = nn.Linear(width, _NUM_CLASSES)

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (batch, classes)."""
        logits: torch.Tensor = self.head(sum(layer(inputs) for layer in self.layers) / len(self.layers))
        return logits


def time_saves(way: str, megabytes: float, num_saves: int) -> dict[str, Any]:
    """Train and save in this process; return what the saves cost, and how large the state was.

    Arguments:
        way: One of `WAYS`.
        megabytes: Of state: a third of it the model, the rest AdamW's.
        num_saves: How many; the first is told apart.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="loopwright-benchmark-") as directory:
        job = _make_job(megabytes, Path(directory))
        clock = SaveClock(num_saves)
        WAYS[way](job, clock)
        num_bytes = 3 * sum(parameter.nbytes for parameter in job.model.parameters())
        return {**summarize(clock.trace), "megabytes": num_bytes / 1e6}


def _make_job(megabytes: float, output_dir: Path) -> Job:
    torch.manual_seed(SEED)
    width = _WIDTH if megabytes >= _SMALL_MEGABYTES else _SMALL_WIDTH
    num_layers = max(1, round(megabytes * 1e6 / 3 / (4 * width * (width + 1))))
    inputs = torch.randn(64, width)
    dataset = Examples(inputs, inputs[:, :_NUM_CLASSES].argmax(-1), _MANY_STEPS)
    setting = Setting(bar=False, shuffle=False)
    return Job(setting, Sidewise(width, num_layers), dataset, 1, _MANY_STEPS, output_dir)


def _remove_all_but_newest(directory: Path) -> None:
    found = [path for path in directory.iterdir() if path.name.startswith("checkpoint-")]
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)[:-1]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


# In a Trainer


def _train_with(name: str, job: Job, clock: SaveClock, **arguments: Any) -> None:
    """Train with the Trainer of `name`; `arguments` are those that it alone has."""
    library = import_module(name)
    args = library.TrainingArguments(
        output_dir=str(job.output_dir),
        max_steps=job.steps,
        per_device_train_batch_size=job.batch_size,
        learning_rate=LEARNING_RATE,
        logging_strategy="no",
        save_strategy="no",  # but for the callback's word
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=SEED,
        train_sampling_strategy="sequential",
        **arguments,
    )
    callback = _make_callback(library.TrainerCallback, clock)
    trainer = library.Trainer(
        model=job.model, args=args, train_dataset=job.dataset, data_collator=collate, callbacks=[callback]
    )
    trainer.train()
    if name == "loopwright":
        trainer.reporting.close()


def _make_callback(base: type, clock: SaveClock) -> Any:
    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if clock.step_begins():
            _remove_all_but_newest(Path(args.output_dir))

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = clock.is_over
        control.should_save = clock.step_ends()

    def on_save(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not (Path(args.output_dir) / f"checkpoint-{state.global_step}").is_dir():
            raise RuntimeError(f"on_save was called, and there is no checkpoint of step {state.global_step}")
        clock.is_durable()

    members = {"on_step_begin": on_step_begin, "on_step_end": on_step_end, "on_save": on_save}
    return type("Saver", (base,), members)()


def _train_without_digests(job: Job, clock: SaveClock) -> None:
    """Train with Loopwright's Trainer, whose files are not digested: in a process of its own, as this stays so."""
    from loopwright._support import files

    class NoDigest:
        """Says the same of everything."""

        def update(self, data: object) -> None:
            """Do nothing."""

        def hexdigest(self) -> str:
            """Return zeros."""
            return "0" * 32

    files._ALGORITHMS[files.DIGEST_ALGORITHM] = NoDigest
    _train_with("loopwright", job, clock)


# By hand


def _train_by_hand(make_save: Callable[[Path], AbstractContextManager[Save]], job: Job, clock: SaveClock) -> None:
    """Train with a loop written by hand, which calls what `make_save` gives."""
    model, optimizer = job.model, make_optimizer(job)
    parameters = list(model.parameters())
    with ExitStack() as stack:
        save = stack.enter_context(make_save(job.output_dir))
        under_way: Future[Any] | None = None
        for step, batch in enumerate(make_loader(job), 1):
            if clock.step_begins():
                if under_way is not None:
                    under_way.result()
                _remove_all_but_newest(job.output_dir)
            model(**batch)["loss"].backward()
            clip_grad_norm_(parameters, MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad()
            is_over = clock.is_over
            if clock.step_ends():
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                under_way = save(state, job.output_dir / f"checkpoint-{step}")
                if under_way is None:
                    clock.is_durable()
                else:
                    under_way.add_done_callback(lambda _: clock.is_durable())
            if is_over:
                return


@contextmanager
def _torch_save(directory: Path, *, is_synced: bool) -> Iterator[Save]:
    def save(state: State, path: Path) -> None:
        torch.save(state, path)
        if is_synced:
            with path.open("rb") as file:
                os.fsync(file.fileno())

    yield save


@contextmanager
def _copy(directory: Path) -> Iterator[Save]:
    """Copy the tensors in memory, the first time into new memory, then over the copy before."""
    kept: list[torch.Tensor] = []

    def save(state: State, path: Path) -> None:
        tensors = list(_tensors_in(state))
        if not kept:
            kept.extend(map(torch.empty_like, tensors))
        with torch.no_grad():
            for target, source in zip(kept, tensors, strict=True):
                target.copy_(source)

    yield save


def _tensors_in(nested: Any) -> Iterator[torch.Tensor]:
    if isinstance(nested, torch.Tensor):
        yield nested.detach()
    elif isinstance(nested, dict):
        for value in nested.values():
            yield from _tensors_in(value)


@contextmanager
def _dcp(directory: Path, *, keeps_stager: bool) -> Iterator[Save]:
    """Let torch.distributed.checkpoint save beside the loop; `keeps_stager`: it copies over the copy before."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = f"file://{directory}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    # As `async_save` makes one for itself, when none is given.
    stager = DefaultStager(StagingOptions(False, False, False, False)) if keeps_stager else None

    def save(state: State, path: Path) -> Future[Any]:
        answer = dcp.async_save(state, checkpoint_id=path, async_stager=stager)
        return answer if isinstance(answer, Future) else answer.upload_completion

    try:
        yield save
    finally:
        if stager is not None:
            stager.close()
        torch.distributed.destroy_process_group()


WAYS: dict[str, Callable[[Job, SaveClock], None]] = {
    "copy": partial(_train_by_hand, _copy),
    "torch.save": partial(_train_by_hand, partial(_torch_save, is_synced=False)),
    "torch.save, synced": partial(_train_by_hand, partial(_torch_save, is_synced=True)),
    "loopwright": partial(_train_with, "loopwright"),
    "loopwright, no digests": _train_without_digests,
    "loopwright, async": partial(_train_with, "loopwright", save_async=True),
    "dcp, async": partial(_train_by_hand, partial(_dcp, keeps_stager=False)),
    "dcp, async, stager kept": partial(_train_by_hand, partial(_dcp, keeps_stager=True)),
    "transformers": partial(_train_with, "transformers"),
}
