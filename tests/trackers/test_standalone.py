"""Inside the real transformers.Trainer: the tracker keeps a journal of its own, and the rest is the same."""

from __future__ import annotations

import pytest
import torch
import transformers

from loopwright.integrations import TensorBoardCallback
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Status
from loopwright.trackers import standalone
from tests.trackers import readback
from tests.trackers.trainings import Network, examples, journal_points


@pytest.fixture(autouse=True)
def no_journals_of_others(monkeypatch):
    monkeypatch.setattr(standalone, "_by_directory", {})


def theirs(directory, *callbacks, **arguments):
    torch.manual_seed(0)
    args = transformers.TrainingArguments(
        str(directory), per_device_train_batch_size=2, num_train_epochs=1, logging_steps=1, save_steps=5,
        report_to="none", use_cpu=True, disable_tqdm=True, remove_unused_columns=False, **arguments,
    )  # fmt: skip
    return transformers.Trainer(
        Network(), args, train_dataset=examples(), eval_dataset=examples(4), callbacks=list(callbacks)
    )


def test_trackers_share_a_journal_and_get_everything_once(tmp_path, generic, service, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    monkeypatch.setenv("GENERIC_ARTIFACTS", "1")
    trainer = theirs(tmp_path / "out", generic.GenericCallback(), TensorBoardCallback())
    trainer.train()
    assert len([line for line in trainer.state.log_history if "loss" in line]) == 12
    with JournalReader(tmp_path / "out") as reader:
        (run,) = reader.runs()
        assert reader.attempts()[-1].status is Status.COMPLETED
        assert len(reader.records(kinds=[Kind.LOG])) == 13
    assert service.points[run.id] == journal_points(tmp_path / "out")
    assert set(service.artifacts[run.id]) == {"checkpoint-5", "checkpoint-10", "checkpoint-12"}
    assert service.statuses[run.id] == ["completed"]
    assert readback.tensorboard(tmp_path / "events") == readback.as_float32(readback.journal(tmp_path / "out"))


def test_service_that_fails_does_not_end_their_training(tmp_path, generic, service, monkeypatch):
    service.go_away()
    trainer = theirs(tmp_path / "out", generic.GenericCallback())
    trainer.train()
    assert trainer.state.global_step == 12
    with JournalReader(tmp_path / "out") as reader:
        assert len(reader.records(kinds=[Kind.LOG])) == 13


def test_their_resume_goes_on_with_the_same_run(tmp_path, generic, service):
    theirs(tmp_path / "out", generic.GenericCallback()).train()
    standalone._by_directory.clear()  # as in a new process
    again = theirs(tmp_path / "out", generic.GenericCallback())
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-5"))
    with JournalReader(tmp_path / "out") as reader:
        (run,) = reader.runs()
        losses = [record.step for record in reader.records(kinds=[Kind.LOG]) if "loss" in record.values]
    assert losses == list(range(1, 13))
    # Their mean loss of a resumed training is another one: recorded anew, and this service takes none back.
    held, counted = service.points[run.id], journal_points(tmp_path / "out")
    assert counted.items() <= held.items()
    assert {place for place in held if place not in counted} <= {place for place in held if place[1] == 12}
