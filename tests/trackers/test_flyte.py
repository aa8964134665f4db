"""Flyte: a real task, run by flytekit here; its checkpoint after faults and a real interruption, and its deck.

The matrix of faults is one of its own: the tracker is on only in a task, and nothing is delivered outside of it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from loopwright.checkpoint.verify import find_damage
from loopwright.delivery.follower import Follower
from loopwright.errors import CheckpointNotFound
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Status
from loopwright.trackers.flyte import FlyteCallback
from loopwright.trackers.flyte_deck import render
from loopwright.trackers.placement import place
from loopwright.trackers.registry import make_tracker
from tests.trackers.journals import ServiceJournal
from tests.trackers.trainings import FAULT_PLACES, FAULTS, UntilFault, build, same_weights, weights

ROOT = Path(__file__).parents[2]
# As a cluster does: each attempt is a process of its own, whose task is told where the one before kept its checkpoint.
PROGRAM = """
import os, sys, time
from pathlib import Path
from flytekit import FlyteContextManager, current_context, task
from flytekit.core.checkpointer import SyncCheckpoint
from loopwright import TrainerCallback
from loopwright.checkpoint.verify import find_damage
from loopwright.integrations import FlyteCallback
from tests.trackers.trainings import build

OUT, DESTINATION, SOURCE, STOP_AT = sys.argv[1:]

class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == int(STOP_AT):
            until = time.monotonic() + 60
            while find_damage(Path(DESTINATION) / "checkpoint-5") and time.monotonic() < until:
                time.sleep(0.05)
            print("here", flush=True)
            time.sleep(600)

@task(enable_deck=True)
def train() -> int:
    cp = current_context().checkpoint
    trainer = build(Path(OUT), callbacks=[FlyteCallback(), Stop()])
    trainer.train(resume_from_checkpoint=cp.restore())
    names = [deck.name for deck in current_context().decks]
    assert "Log History" in names, names
    import torch
    torch.save(trainer.model.state_dict(), Path(OUT) / "final.pt")
    return trainer.state.global_step

if __name__ == "__main__":
    context = FlyteContextManager.current_context()
    checkpoint = SyncCheckpoint(checkpoint_dest=DESTINATION, checkpoint_src=SOURCE or None)
    parameters = context.user_space_params.builder()
    parameters.checkpoint = checkpoint
    state = context.new_execution_state().with_params(user_space_params=parameters.build())
    with FlyteContextManager.with_context(context.with_execution_state(state)):
        assert train.task_function() == 12
"""


@pytest.fixture(autouse=True)
def ctrl_c_is_whose_it_was():
    """flytekit takes SIGINT for the whole process when it is imported: other files' tests want Python's own."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def start(directory: Path, name: str, *, source: str = "", stop_at: int = 0) -> subprocess.Popen[str]:
    (directory / "program.py").write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, "program.py", f"out-{name}", str(directory / f"cp-{name}"), source, str(stop_at)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors


def left_in(destination: Path | str) -> list[str]:
    """Return the names of what an attempt left for the next; that it is one's is said beside them."""
    names = sorted(path.name for path in Path(destination).iterdir())
    names.remove("loopwright_attempt.json")
    return names


@contextmanager
def in_task(checkpoint):
    """Be in a task that has this checkpoint."""
    from flytekit import FlyteContextManager

    context = FlyteContextManager.current_context()
    parameters = context.user_space_params.builder()
    parameters.checkpoint = checkpoint
    state = context.new_execution_state().with_params(user_space_params=parameters.build())
    with FlyteContextManager.with_context(context.with_execution_state(state)):
        yield


class Journal(ServiceJournal):
    tracker_class = FlyteCallback


def files_in(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def whole_in(destination: Path) -> list[str]:
    """Return the names of the checkpoints that pass as whole."""
    return sorted(path.name for path in destination.glob("checkpoint-*") if find_damage(path) == [])


def fault_cases():
    """Return the matrix; in every run each fault once, and each place."""
    for row, fault in enumerate(FAULTS):
        for column, where in enumerate(FAULT_PLACES):
            marks = [] if column == row % len(FAULT_PLACES) else [pytest.mark.soak]
            yield pytest.param(fault, where, id=f"{fault}-{where}", marks=marks)


@pytest.mark.parametrize(("fault", "where"), list(fault_cases()))
def test_fault_changes_nothing_and_a_training_that_goes_on_copies_all(fault, where, faulty, tmp_path, without_trackers):
    from flytekit.core.checkpointer import SyncCheckpoint

    (tmp_path / "fault").write_text(f"{fault}@{where}")
    out, copies, before = tmp_path / "out", tmp_path / "cp", tmp_path / "cp-before"
    patience = UntilFault(tmp_path, where)
    copies.mkdir()
    with in_task(SyncCheckpoint(str(copies))):
        trainer = build(
            out, callbacks=[faulty.Faulty_flyte(), patience], tracker_open_timeout=3, tracker_call_timeout=2,
            tracker_close_timeout=4,
        )  # fmt: skip
        began = time.monotonic()
        trainer.train()
        assert time.monotonic() - began - patience.waited < 15
        trainer.reporting.close()
    assert (tmp_path / "fault-met").exists()
    assert same_weights(weights(trainer), without_trackers)
    with JournalReader(out) as reader:
        assert reader.attempts()[-1].status is Status.COMPLETED
        assert [entry.place for entry in reader.sinks()] == ["training"]
    for name in whole_in(copies):
        assert files_in(copies / name) == files_in(out / name)
    (tmp_path / "fault").unlink()
    shutil.copytree(copies, before)
    # In the same task: what is missing comes.
    with in_task(SyncCheckpoint(str(copies))):
        again = build(out, callbacks=[faulty.Faulty_flyte()])
        again.train(resume_from_checkpoint=out / "checkpoint-12")
        again.reporting.close()
    assert [path.name for path in sorted(copies.glob("checkpoint-*"))] == ["checkpoint-10", "checkpoint-12"]
    for name in ("checkpoint-10", "checkpoint-12"):
        assert files_in(copies / name) == files_in(out / name)
    # In a next attempt, which has no more than what the fault had left.
    if left_over := list(before.iterdir()):
        checkpoint = SyncCheckpoint(str(tmp_path / "cp-next"), str(before))
        with in_task(checkpoint):
            following = build(tmp_path / "next", callbacks=[faulty.Faulty_flyte()])
            following.train(resume_from_checkpoint=checkpoint.restore())
            following.reporting.close()
        assert same_weights(weights(following), without_trackers), left_over
        assert "checkpoint-12" in whole_in(tmp_path / "cp-next")


def test_delivery_outside_of_the_task_says_what_copies_the_rest(tmp_path):
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.note(Kind.CHECKPOINT, 5, {"path": "checkpoint-5"})
    journal.end()
    follower = Follower(journal.directory, make_tracker, trackers=["flyte"])
    follower.run()
    (worker,) = follower.workers.values()
    assert "known within the task alone: a training that goes on there copies it" in worker.error
    assert worker.pending() == 1


def test_interrupted_task_goes_on_from_its_checkpoint_as_if_nothing_had_happened(tmp_path, without_trackers):
    import torch

    before = ""
    for number in range(2):  # the second ends before it has a checkpoint of its own
        attempt = start(tmp_path, str(number), source=before, stop_at=8)
        assert "here\n" in iter(attempt.stdout.readline, "")
        os.kill(attempt.pid, signal.SIGKILL)
        attempt.communicate(timeout=30)
        before = str(tmp_path / f"cp-{number}")
        assert left_in(before) == ["checkpoint-5"]
    finish(start(tmp_path, "last", source=before))
    last = torch.load(tmp_path / "out-last" / "final.pt", weights_only=True)
    assert same_weights(list(last.values()), without_trackers)
    # The newest two are kept, each whole; nothing else was left beside the training's own files.
    copied = left_in(tmp_path / "cp-last")
    assert copied == ["checkpoint-10", "checkpoint-12"]
    assert [find_damage(tmp_path / "cp-last" / name) for name in copied] == [[], []]
    assert not list((tmp_path / "out-last").glob("flyte-*"))


def test_attempt_after_one_that_left_no_whole_copy_begins_anew(tmp_path, monkeypatch, caplog):
    from flytekit.core.checkpointer import SyncCheckpoint

    class Lost(SyncCheckpoint):
        """Is interrupted inside the first checkpoint's copy, when its manifest and one more file are there."""

        def save(self, cp):
            folder = next(Path(cp).glob("checkpoint-*"), None)
            for file in () if folder is None else sorted(folder.iterdir())[3:]:
                file.unlink()
            super().save(cp)
            if folder is not None and len(list(folder.iterdir())) > 1:
                raise OSError("the machine is gone")

    with in_task(Lost(str(tmp_path / "cp"))):
        build(tmp_path / "out", callbacks=[FlyteCallback(save_log_history=False)], tracker_close_timeout=2).train()
    assert find_damage(tmp_path / "cp" / "checkpoint-5") != []
    again = build(tmp_path / "again")
    checkpoint = SyncCheckpoint(str(tmp_path / "cp-again"), str(tmp_path / "cp"))
    again.train(resume_from_checkpoint=checkpoint.restore())
    assert again.state.global_step == 12
    assert "the attempt before left no whole checkpoint" in caplog.text
    (tmp_path / "cp" / "loopwright_attempt.json").unlink()
    with pytest.raises(CheckpointNotFound, match="holds no whole checkpoint"):
        build(tmp_path / "other").train(resume_from_checkpoint=tmp_path / "cp")


def test_deck_is_made_by_a_real_run_of_a_task(tmp_path, monkeypatch):
    from flytekit import current_context, task

    monkeypatch.chdir(tmp_path)
    seen = {}

    @task(enable_deck=True)
    def train() -> int:
        trainer = build(tmp_path / "out", callbacks=[FlyteCallback(sync_checkpoints=False)], eval_strategy="epoch")
        trainer.train()
        seen.update({deck.name: deck.html for deck in current_context().decks})
        trainer.reporting.close()
        return trainer.state.global_step

    assert train() == 12
    deck = seen["Log History"]
    assert "<svg" in deck
    for text in ("eval_loss", "learning_rate", "<td>12</td>"):
        assert text in deck
    assert "http" not in deck.replace("http://www.w3.org", "").replace("https://matplotlib.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", ""), "nothing is fetched"


def test_newest_copy_that_was_cut_in_half_is_passed_over(tmp_path):
    trainer = build(tmp_path / "out")
    trainer.train()
    (tmp_path / "out" / "checkpoint-12" / "model.safetensors").write_bytes(b"half")
    again = build(tmp_path / "elsewhere", max_steps=12)
    again.train(resume_from_checkpoint=tmp_path / "out")
    assert again.state.global_step == 12
    assert not (tmp_path / "elsewhere" / "checkpoint-10").exists()


def test_outside_of_a_task_it_is_off_and_says_so(monkeypatch):
    assert (place(FlyteCallback()).place, place(FlyteCallback()).reason) == ("off", "the program is in no Flyte task")
    monkeypatch.delitem(sys.modules, "flytekit", raising=False)
    assert place(FlyteCallback()).place == "off"
    assert "flytekit" not in sys.modules


@pytest.mark.parametrize("flag", [True, False])
def test_flags_say_what_is_done(flag):
    assert FlyteCallback(sync_checkpoints=flag).wants_checkpoints() is flag


def test_history_without_losses_is_a_table_alone():
    text = render([{"step": 1, "accuracy": 0.5}])
    assert "<svg" not in text
    assert "<td>0.5</td>" in text
