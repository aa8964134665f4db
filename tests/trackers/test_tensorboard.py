"""TensorBoard, read back by its own reader: equal to the journal point by point, whatever happened in between."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from loopwright.delivery.sink import Standing
from loopwright.delivery.store import DeliveryStore, read_delivered
from loopwright.delivery.worker import Worker
from loopwright.integrations import TensorBoardCallback
from loopwright.journal.reader import JournalReader
from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Run, Status
from tests.trackers import readback
from tests.trackers.disks import fill, mount_small_disk
from tests.trackers.trainings import BreakAtStep, build, deliver_what_is_left, same_weights, tracker_at, weights


def accumulator(directory: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(directory), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def text_of(directory: Path, tag: str) -> str:
    events = accumulator(directory).Tensors(f"{tag}/text_summary")
    return events[0].tensor_proto.string_val[0].decode()


class Journal:
    """A journal of one run, and workers that deliver it to a TensorBoard directory."""

    def __init__(self, out: Path, **details) -> None:
        self.out = out
        self.run = Run(id="ab" * 16, output_dir=str(out), created_at=1.7e9, **details)
        self.recorder = Recorder(out)
        self.recorder.begin_attempt(self.run, purpose="training")
        self.status = Status.RUNNING

    def log(self, step, **values):
        return self.recorder.record(Kind.LOG, step, values)

    def deliver(self, tracker=None, *, end=True, wait=20.0):
        """Deliver everything with a new worker, which closes if `end`; return it."""
        reader, store = JournalReader(self.out), DeliveryStore(self.out)
        worker = Worker(
            self.run, "tensorboard", lambda: tracker or TensorBoardCallback(), reader=reader, store=store,
            status=lambda: Status.COMPLETED if end else Status.RUNNING,
        )  # fmt: skip
        worker.start()
        if end:
            assert worker.join(wait), worker.error
        else:
            until = time.monotonic() + wait
            while worker.pending() and time.monotonic() < until:
                time.sleep(0.02)
        return worker

    def close(self):
        self.recorder.close()


@pytest.fixture
def journal(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    found = Journal(tmp_path / "out")
    yield found
    found.close()


def test_points_are_those_of_the_journal(journal, tmp_path):
    for step in range(1, 30):
        journal.log(step, loss=1 / step, learning_rate=1e-3, epoch=step / 10)
    journal.log(29, eval_loss=0.25, eval_f1={"cats": 0.5, "dogs": 0.75}, note="half way")
    journal.log(30, loss=math.nan, grad_norm=math.inf)
    journal.deliver()
    found = readback.tensorboard(tmp_path / "events")
    expected = readback.as_float32(readback.journal(journal.out))
    nan = ("train/loss", 30)
    assert math.isnan(next(iter(found.pop(nan))))
    assert math.isnan(next(iter(expected.pop(nan))))
    assert found == expected
    assert ("eval/f1/cats", 29) in found
    assert found["train/grad_norm", 30] == {math.inf: 1}
    events = accumulator(tmp_path / "events").Scalars("train/learning_rate")
    with JournalReader(journal.out) as reader:
        times = [record.time for record in reader.records() if "learning_rate" in record.values]
    assert [event.wall_time for event in events] == pytest.approx(times, abs=1e-3)


def test_deleted_files_are_filled_again_though_a_session_ended_before_it_went_back(journal, tmp_path):
    journal.log(1, loss=1.0)
    journal.log(2, loss=0.5)
    journal.deliver()
    shutil.rmtree(tmp_path / "events")
    store = DeliveryStore(journal.out)
    delivered = store.read(journal.run.id, "tensorboard")
    standing = Standing(
        confirmed=delivered.cursor,
        was_closed=delivered.was_closed,
        reference=delivered.reference,
        remember=lambda values: store.remember(journal.run.id, "tensorboard", values),
    )
    cut = TensorBoardCallback()  # a kill comes right after it is open
    assert cut.open(journal.run, standing) == 0
    cut.abandon()
    store.close()
    journal.log(3, loss=0.25)
    journal.deliver()
    assert readback.tensorboard(tmp_path / "events") == readback.as_float32(readback.journal(journal.out))


def test_arguments_and_parameters_are_written_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    journal = Journal(
        tmp_path / "out", arguments={"learning_rate": 0.1}, parameters={"hidden_size": 8, "learning_rate": 0.1}
    )
    journal.log(1, loss=1.0)
    journal.deliver()
    journal.log(2, loss=0.5)
    journal.deliver()
    journal.close()
    assert json.loads(text_of(tmp_path / "events", "args")) == {"learning_rate": 0.1}
    assert json.loads(text_of(tmp_path / "events", "model_config")) == {"hidden_size": 8}
    assert len(accumulator(tmp_path / "events").Tensors("args/text_summary")) == 1
    assert "_hparams_/session_start_info" in accumulator(tmp_path / "events").summary_metadata


def test_directory_is_that_of_arguments_then_variable_then_output_dir(tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "variable"))
    for name, options in {
        "variable": {},
        "argument": {"arguments": {"logging_dir": str(tmp_path / "argument")}},
    }.items():
        journal = Journal(out / name, **options)
        journal.log(1, loss=1.0)
        journal.deliver()
        journal.close()
        assert readback.tensorboard(tmp_path / name)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    journal = Journal(out / "default")
    journal.log(1, loss=1.0)
    journal.deliver()
    journal.close()
    assert readback.tensorboard(out / "default" / "runs")


def test_trial_has_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    journal = Journal(tmp_path / "out", trial_name="trial-3", trial_parameters={"learning_rate": 0.1})
    journal.log(1, loss=1.0)
    journal.deliver()
    journal.close()
    assert readback.tensorboard(tmp_path / "events" / "trial-3")


def test_second_run_does_not_draw_into_the_curve_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    for number in range(2):
        journal = Journal(tmp_path / f"out{number}")
        journal.log(1, loss=float(number))
        journal.deliver()
        journal.close()
    assert readback.tensorboard(tmp_path / "events") == {("train/loss", 1): {0.0: 1}}
    assert readback.tensorboard(tmp_path / "events_abababab") == {("train/loss", 1): {1.0: 1}}


def test_session_that_died_after_its_files_were_written_leaves_nothing_double(journal, tmp_path):
    for step in range(1, 11):
        journal.log(step, loss=float(step))
        journal.log(step, eval_loss=float(-step))
    worker = journal.deliver(end=False)
    worker.stop()
    assert worker.join(5)
    # As if the kill had come between the flush and the cursor, in the middle of a step.
    with_store = DeliveryStore(journal.out)
    with_store.move(journal.run.id, "tensorboard", 13)
    with_store.close()
    journal.log(11, loss=11.0)
    journal.deliver()
    assert readback.tensorboard(tmp_path / "events") == readback.as_float32(readback.journal(journal.out))


def test_what_a_resumed_run_contradicts_is_taken_back(journal, tmp_path):
    for step in range(1, 9):
        journal.log(step, loss=float(step))
        if step == 5:
            whereabouts = journal.recorder.whereabouts()
    journal.recorder.end_attempt(Status.FAILED)
    journal.deliver()
    journal.recorder.begin_attempt(journal.run, purpose="training", first_step=5, resumed_at=whereabouts)
    for step in range(6, 9):
        journal.log(step, loss=float(step) if step == 6 else -float(step))
    journal.deliver()
    found = readback.tensorboard(tmp_path / "events")
    assert found == readback.as_float32(readback.journal(journal.out))
    assert [found["train/loss", step] for step in (6, 7, 8)] == [{6.0: 1}, {-7.0: 1}, {-8.0: 1}]


def test_writer_of_the_user_is_used_in_this_process_and_left_open(tmp_path):
    writer = SummaryWriter(tmp_path / "mine")
    tracker = TensorBoardCallback(writer)
    trainer = build(tmp_path / "out", callbacks=[tracker])
    trainer.train()
    trainer.reporting.close()
    writer.add_scalar("mine", 1.0, 1)
    writer.close()
    found = readback.tensorboard(tmp_path / "mine")
    assert found.pop(("mine", 1)) == {1.0: 1}
    assert found == readback.as_float32(readback.journal(tmp_path / "out"))


class MyTensorBoard(TensorBoardCallback):
    def setup(self, args, state, model, **kwargs):
        super().setup(args, state, model, **kwargs)
        self.tb_writer.add_text("mine", f"{type(model).__name__} in {Path(args.output_dir).name}")

    def on_log(self, args, state, control, logs=None, **kwargs):
        changed = {**logs, "doubled": 2 * logs["loss"]} if "loss" in logs else logs
        super().on_log(args, state, control, logs=changed, **kwargs)


def test_subclass_may_override_setup_and_hand_on_other_logs(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = build(tmp_path / "out", callbacks=[MyTensorBoard()])
    trainer.train()
    trainer.reporting.close()
    found = readback.tensorboard(tmp_path / "events")
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 12
    assert all("doubled" not in line for line in lines), "the history is the training's, not one tracker's"
    for line in lines:
        assert found["train/doubled", line["step"]] == {torch.tensor(2 * line["loss"]).item(): 1}
        assert found["train/loss", line["step"]] == {torch.tensor(line["loss"]).item(): 1}
    assert text_of(tmp_path / "events", "mine") == "Network in out"


# SummaryWriter has a thread of its own, which dies of the fault too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("home", ["delivery", "training"])
@pytest.mark.parametrize("fault", ["unwritable at open", "deleted", "file in its place", "disk full"])
def test_directory_that_fails_changes_nothing(fault, home, tmp_path, monkeypatch, without_trackers, request):
    events = tmp_path / "mount" / "events"
    events.parent.mkdir()
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(events))

    def heal():
        if events.is_file():
            events.unlink()

    steps = {}
    if fault == "unwritable at open":
        events.write_text("a file stands in the way")
    elif fault == "deleted":
        steps[6] = lambda: shutil.rmtree(events, ignore_errors=True)
    elif fault == "file in its place":
        steps[6] = lambda: (shutil.rmtree(events, ignore_errors=True), events.write_text("in the way"))
    else:
        mount_small_disk(request, events.parent, "24k")
        big = events.parent / "ballast"
        steps[1] = lambda: fill(big)
        heal = lambda: big.unlink(missing_ok=True)  # noqa: E731
    out = tmp_path / "out"
    tracker = tracker_at(home, TensorBoardCallback)
    trainer = build(out, callbacks=[tracker, BreakAtStep(steps)], tracker_call_timeout=20)
    trainer.train()
    trainer.reporting.close()
    assert same_weights(weights(trainer), without_trackers)
    heal()
    deliver_what_is_left(out)
    assert readback.tensorboard(events) == readback.as_float32(readback.journal(out))
    assert read_delivered(out, trainer.run_id, "tensorboard").error is None


def test_delivery_killed_again_and_again_leaves_each_point_once(tmp_path, monkeypatch, without_trackers):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))

    def kill():
        child = trainer.reporting._delivery._children[0]._process
        if child is not None:
            child.send_signal(signal.SIGKILL)

    trainer = build(
        tmp_path / "out", report_to="tensorboard", callbacks=[BreakAtStep(dict.fromkeys((9, 11), kill))],
        tracker_close_timeout=60,
    )  # fmt: skip
    trainer.train()
    trainer.reporting.close()
    assert same_weights(weights(trainer), without_trackers)
    assert readback.tensorboard(tmp_path / "events") == readback.as_float32(readback.journal(tmp_path / "out"))
