"""How long a resume takes to the end of its first step, soon after the begin of an epoch and far into it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from benchmarks.rounds import Round, alternate, spread, spread_of_ratios
from benchmarks.settings import Options
from benchmarks.table import failure_lines, make_table, with_quartiles
from benchmarks.worker import Worker, WorkerError

ABOUT = "seconds to the first step of a resume, at step 10 and at step 10,000"

_NUM_ROUNDS = 5
_NEAR, _FAR = 10, 10_000
_IMPLEMENTATIONS = ("loopwright", "transformers")
_CASES: dict[str, tuple[str, int]] = {
    "map-style, no workers": ("map-style", 0),
    "map-style, 2 workers": ("map-style", 2),
    "stream": ("stream", 0),
}
_CAPTION = (
    "Seconds from the call of train(resume_from_checkpoint=...) to the end of its first step: reading and checking the "
    "checkpoint, putting everything back, getting to the place in the data, starting the workers, one step of a tiny "
    "model with a batch of one. Both positions are in the same epoch, and an example takes 1 ms to load. map-style: in "
    "random order. stream: an IterableDataset with state_dict and load_state_dict. Median [quartiles] of the rounds, "
    "the ratio taken within each; a process per row, which has resumed once before. The example of the first step is "
    "compared with that of a training that was not interrupted. Goal of the ratio: 1 within noise."
)


def run(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Make the checkpoints, then resume from each, round after round."""
    num_rounds = options.num_rounds or _NUM_ROUNDS
    far = max(2 * _NEAR, int(_FAR * options.round_seconds))
    names = [name for name in _IMPLEMENTATIONS if name in options.implementations]
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loopwright-benchmark-")))
        say(f"making checkpoints at steps {_NEAR} and {far:,}")
        entries: dict[str, Callable[[], Round]] = {}
        for name in names:
            for case, (data, num_workers) in _CASES.items():
                asking = {"library": name, "data": data, "num_workers": num_workers, "num_steps": far}
                row = f"{name}: {case}"
                worker = stack.enter_context(Worker())
                try:
                    resumes = _prepare(worker, asking, far, directory / str(len(entries)))
                except WorkerError as error:
                    failed[row] = error.reason
                else:
                    entries[row] = partial(_resume_at_each, worker, resumes)
        say(f"{len(entries)} cases, {num_rounds} rounds, and one that is thrown away")
        alternate(entries, 1)
        measured = alternate(entries, num_rounds)
    return {
        "near": _NEAR,
        "far": far,
        "num_rounds": num_rounds,
        "rows": {row: _summarize(rounds) for row, rounds in measured.rounds.items()},
        "failed": {**failed, **measured.failed},
    }


def _prepare(worker: Worker, asking: Mapping[str, Any], far: int, directory: Path) -> dict[str, dict[str, Any]]:
    """Make a checkpoint at each position; return what to ask for a resume there."""
    resumes = {}
    for name, position in (("near", _NEAR), ("far", far)):
        place = {**asking, "position": position, "output_dir": str(directory / name)}
        resumes[name] = {**place, "expected": worker.ask("benchmarks.resuming:prepare", **place)}
    return resumes


def _resume_at_each(worker: Worker, resumes: Mapping[str, Mapping[str, Any]]) -> Round:
    return {
        f"{name}_s": worker.ask("benchmarks.resuming:resume", **asking)["seconds"] for name, asking in resumes.items()
    }


def _summarize(rounds: list[Round]) -> dict[str, Any]:
    near, far = ([found[name] for found in rounds] for name in ("near_s", "far_s"))
    return {"near_s": spread(near), "far_s": spread(far), "ratio": spread_of_ratios(far, near), "rounds": rounds}


def render(results: dict[str, Any]) -> Iterable[RenderableType]:
    """Return the table."""
    yield make_table(
        f"seconds to the first step of a resume ({results['num_rounds']} rounds)",
        ("", f"at step {results['near']}", f"at step {results['far']:,}", "ratio"),
        [
            [row, *(with_quartiles(found[name], 3) for name in ("near_s", "far_s")), with_quartiles(found["ratio"])]
            for row, found in results["rows"].items()
        ],
        caption=_CAPTION,
    )
    yield from failure_lines(results["failed"])
