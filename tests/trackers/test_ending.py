"""What a training says of trackers that it left behind."""

from __future__ import annotations

import logging

import pytest

from loopwright.delivery.store import DeliveryStore
from loopwright.journal.reader import SinkEntry
from loopwright.journal.recorder import Recorder
from loopwright.records import Kind, Run, Status
from loopwright.trackers.ending import say_leftovers

RUN = Run(id="a" * 32, output_dir="out", created_at=1.0)


@pytest.mark.parametrize(
    ("cursor", "said"),
    [
        (0, "slow lacks 1 record(s) (no answer); the journal has them. Deliver them later: loopwright sync "),
        (1, "slow has every record, and its run wasn't ended (no answer). End it later: loopwright sync "),
    ],
)
def test_what_is_left_is_told_with_the_command_that_does_it(cursor, said, tmp_path, caplog):
    recorder = Recorder(tmp_path)
    recorder.begin_attempt(RUN, purpose="training")
    recorder.add_sink(SinkEntry(RUN.id, "slow", "somewhere:Slow", {}, {}, "delivery", False))
    recorder.record(Kind.LOG, 1, {"loss": 0.5})
    recorder.end_attempt(Status.COMPLETED)
    recorder.close()
    store = DeliveryStore(tmp_path)
    store.move(RUN.id, "slow", cursor)
    store.note_session(RUN.id, "slow", is_open=True)
    store.note_failure(RUN.id, "slow", "no answer")
    store.close()
    with caplog.at_level(logging.WARNING):
        left = say_leftovers(tmp_path, RUN.id)
    assert caplog.messages == [f"{said}{tmp_path} --tracker slow"]
    assert say_leftovers(tmp_path, RUN.id, left) == left
    assert len(caplog.messages) == 1, "it is said once"
