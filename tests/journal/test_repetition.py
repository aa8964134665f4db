from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopwright.journal.reader import JournalReader
from loopwright.journal.recorder import Recorder
from loopwright.journal.repetition import Awaited, Repetition, is_volatile, rewinds_to
from loopwright.records import Decision, Kind, Record, Run, Status

Resume = Callable[..., Recorder]
NOTHING = frozenset[str]()


@pytest.fixture
def resume(tmp_path: Path, run: Run, make_recorder: Callable[..., Recorder]) -> Resume:
    """Return a function that begins the next attempt of the run; the one before it ends as a failure does."""
    made: list[Recorder] = []

    def go_on(resumed_at: dict[str, Any] | None = None, first_step: int = 0) -> Recorder:
        if made:
            made[-1].end_attempt(Status.FAILED, "on purpose")
            made[-1].close()
        made.append(make_recorder(tmp_path))
        made[-1].begin_attempt(run, purpose="training", first_step=first_step, resumed_at=resumed_at)
        return made[-1]

    return go_on


def records_in(directory: Path, **conditions: Any) -> list[Record]:
    with JournalReader(directory) as reader:
        return reader.records(**conditions)


def losses_in(directory: Path) -> list[tuple[int, float]]:
    return [(record.step, record.values["loss"]) for record in records_in(directory, kinds=[Kind.LOG])]


def log_steps(recorder: Recorder, steps: range, factor: float = 1.0) -> list[int]:
    return [recorder.record(Kind.LOG, step, {"loss": factor / step, "epoch": step / 10}) for step in steps]


# The same again


def test_the_same_again_leaves_the_old_record_with_its_time_and_number(
    tmp_path: Path, journal_kind: str, resume: Resume
) -> None:
    first = resume()
    log_steps(first, range(1, 5))
    whereabouts = first.whereabouts()
    assert whereabouts == {"position": 4, "awaited": []}
    log_steps(first, range(5, 8))
    before = records_in(tmp_path)
    second = resume(whereabouts, first_step=4)
    assert log_steps(second, range(5, 10)) == [5, 6, 7, 8, 9]
    after = records_in(tmp_path)
    assert after[:7] == before
    assert [(record.step, record.attempt) for record in after[7:]] == [(8, 2), (9, 2)]
    assert second.whereabouts() == {"position": 9, "awaited": []}


def test_what_differs_from_machine_to_machine_and_what_callbacks_add_is_not_compared(
    tmp_path: Path, resume: Resume, caplog: pytest.LogCaptureFixture
) -> None:
    first = resume()
    values = {"loss": 1.0, "train_runtime": 10.0, "eval_samples_per_second": 3.0, "gpu_memory_mb": 4.0}
    first.record(Kind.LOG, 1, values | {"humidity": 0.4}, added=["humidity"])
    first.record(Kind.LOG, 2, values)
    second = resume({"position": 0, "awaited": []})
    changed = {"loss": 1.0, "train_runtime": 11.0, "eval_samples_per_second": 2.0, "humidity": 0.5}
    assert second.record(Kind.LOG, 1, changed) == 1  # added then; the callback is gone now, or not
    assert second.record(Kind.LOG, 2, changed | {"a,b": 1.0}, added=["humidity", "a,b"]) == 2
    assert caplog.records == []
    assert [record.values for record in records_in(tmp_path)] == [values | {"humidity": 0.4}, values]


def test_values_are_the_same_in_whatever_form_they_come(
    tmp_path: Path, journal_kind: str, resume: Resume, caplog: pytest.LogCaptureFixture
) -> None:
    values = {
        "nan": math.nan,
        "float32 nan": np.float32(math.nan),
        "float32": np.float32(0.1),
        "infinity": math.inf,
        "nested": {"list": [1, math.nan, (2, 3)]},
        "tuple": (1, 2),
        "set": {3, 1, 2},
        "left out": np.arange(3),
        "integer": np.int64(2**60),
    }
    resume().record(Kind.LOG, 1, values)
    caplog.clear()
    assert resume({"position": 0, "awaited": []}).record(Kind.LOG, 1, values) == 1
    assert caplog.records == []
    assert len(records_in(tmp_path)) == 1


def test_each_tracker_and_kind_is_awaited_for_itself(tmp_path: Path, resume: Resume) -> None:
    def say(recorder: Recorder, order: list[int]) -> list[int]:
        parts: list[tuple[Kind, dict[str, Any], str | None]] = [
            (Kind.LOG, {"loss": 1.0}, None),
            (Kind.LOG, {"own": 1.0}, "wandb"),
            (Kind.LOG, {"own": 2.0}, "mlflow"),
            (Kind.PREDICTION, {"test_loss": 1.0}, None),
            (Kind.ARTIFACT, {"path": "a"}, "mlflow"),
        ]
        return [recorder.record(parts[n][0], 1, parts[n][1], tracker=parts[n][2]) for n in order]

    say(resume(), [0, 1, 2, 3, 4])
    assert say(resume({"position": 0, "awaited": []}), [4, 2, 3, 1, 0]) == [5, 3, 4, 2, 1]


def test_decisions_that_come_again_are_not_recorded_again(tmp_path: Path, resume: Resume) -> None:
    decisions = [Decision(step, "MyCallback", "on_step_end", "should_save", step > 1) for step in (1, 2, 3)]
    first = resume()
    for decision in decisions:
        first.decide(decision)
    first.sync()
    second = resume({"position": 1, "awaited": []}, first_step=1)
    for decision in decisions[1:]:
        second.decide(decision)
    second.decide(Decision(4, "MyCallback", "on_step_end", "should_save", True))
    second.sync()
    assert [(record.sequence, record.step) for record in records_in(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_a_decision_that_does_not_come_again_holds_up_no_other(
    tmp_path: Path, resume: Resume, caplog: pytest.LogCaptureFixture
) -> None:
    decisions = [Decision(step, "MyCallback", "on_step_end", "should_save", True) for step in (1, 1, 2, 3)]
    decisions[0] = Decision(1, "OtherCallback", "on_step_end", "should_log", True)
    first = resume()
    for decision in decisions:
        first.decide(decision)
    log_steps(first, range(3, 5))
    second = resume({"position": 0, "awaited": []})
    for decision in decisions[1:3]:
        second.decide(decision)
    log_steps(second, range(3, 5))
    assert second.whereabouts()["awaited"] == [1, 4]
    second.end_attempt(Status.COMPLETED)
    assert [record.sequence for record in records_in(tmp_path)] == [2, 3, 5, 6]  # and nothing was taken back
    assert caplog.records == []


def test_what_ended_a_run_stands_where_it_is_gone_on_with(
    tmp_path: Path, resume: Resume, caplog: pytest.LogCaptureFixture
) -> None:
    first = resume()
    log_steps(first, range(1, 4))
    whereabouts = first.whereabouts()
    first.record(Kind.LOG, 3, {"train_loss": 0.5, "train_runtime": 3.0})
    first.record(Kind.PREDICTION, 3, {"test_loss": 1.0})
    first.record(Kind.ARTIFACT, 3, {"path": "model"})
    second = resume(whereabouts, first_step=3)
    assert second.record(Kind.PREDICTION, 3, {"test_loss": 1.0}) == 5  # this one comes again
    assert second.record(Kind.ARTIFACT, 3, {"path": "model-2"}) == 7  # another file contradicts nothing
    log_steps(second, range(4, 6))
    second.end_attempt(Status.COMPLETED)
    assert [record.sequence for record in records_in(tmp_path)] == list(range(1, 10))
    assert caplog.records == []


def test_what_ended_a_run_is_dropped_where_it_is_contradicted(
    tmp_path: Path, resume: Resume, caplog: pytest.LogCaptureFixture
) -> None:
    first = resume()
    log_steps(first, range(1, 4))
    whereabouts = first.whereabouts()
    first.record(Kind.LOG, 3, {"eval_loss": 0.5})
    first.record(Kind.LOG, 3, {"train_loss": 0.5})
    log_steps(first, range(4, 6))
    second = resume(whereabouts, first_step=3)
    second.record(Kind.LOG, 3, {"eval_loss": 0.25})
    expected = "diverged at step 3: eval_loss 0.25 was 0.5; the new values count"
    assert warnings_in(caplog) == [(logging.WARNING, expected)]
    log_steps(second, range(4, 6), factor=2.0)
    found = [(record.step, record.values) for record in records_in(tmp_path)][3:]
    assert found == [
        (3, {"train_loss": 0.5}),
        (3, {"from_step": 3}),
        (3, {"eval_loss": 0.25}),
        (4, {"loss": 0.5, "epoch": 0.4}),
        (5, {"loss": 0.4, "epoch": 0.5}),
    ]
    second.record(Kind.LOG, 3, {"train_loss": 0.25})
    assert records_in(tmp_path)[3].kind == Kind.REWIND  # what stood here is dropped
    assert len(caplog.records) == 1  # said once in an attempt


def test_the_checkpoint_that_a_run_goes_on_from_is_not_awaited(
    tmp_path: Path, resume: Resume, caplog: pytest.LogCaptureFixture
) -> None:
    first = resume()
    log_steps(first, range(1, 3))
    whereabouts = first.whereabouts()
    first.record(Kind.CHECKPOINT, 2, {"path": "checkpoint-2"})
    log_steps(first, range(3, 5))
    first.record(Kind.CHECKPOINT, 4, {"path": "checkpoint-4"})
    second = resume(whereabouts, first_step=2)
    log_steps(second, range(3, 5))
    assert second.record(Kind.CHECKPOINT, 4, {"path": "checkpoint-4"}) == 6
    second.end_attempt(Status.COMPLETED)
    found = [(record.sequence, record.kind) for record in records_in(tmp_path)]
    assert found == [(n, Kind.CHECKPOINT if n in (3, 6) else Kind.LOG) for n in range(1, 7)]
    assert caplog.records == []


def test_another_runs_records_are_not_awaited(tmp_path: Path, run: Run, make_recorder: Callable[..., Recorder]) -> None:
    recorder = make_recorder()
    recorder.begin_attempt(run, purpose="training")
    log_steps(recorder, range(1, 4))
    recorder.end_attempt(Status.FAILED)
    branch = Run(id="b" * 32, output_dir="out", parent_id=run.id, parent_step=1)
    recorder.begin_attempt(branch, purpose="training", first_step=1, resumed_at={"position": 1, "awaited": []})
    assert log_steps(recorder, range(2, 4)) == [4, 5]
    assert len(records_in(tmp_path)) == 5


# Something else


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records]


def test_a_difference_is_said_and_what_is_new_counts(
    tmp_path: Path, journal_kind: str, resume: Resume, caplog: pytest.LogCaptureFixture
) -> None:
    log_steps(resume(), range(1, 8))
    second = resume({"position": 2, "awaited": []}, first_step=2)
    assert log_steps(second, range(3, 5)) == [3, 4]
    log_steps(second, range(5, 9), factor=2.0)
    assert warnings_in(caplog) == [(logging.WARNING, "diverged at step 5: loss 0.4 was 0.2; the new values count")]
    assert losses_in(tmp_path) == [(step, (2.0 if step > 4 else 1.0) / step) for step in range(1, 9)]
    (rewind,) = records_in(tmp_path, kinds=[Kind.REWIND])
    assert (rewind.sequence, rewind.step, rewind.values) == (8, 5, {"from_step": 5})


def test_every_key_that_differs_is_named(resume: Resume, caplog: pytest.LogCaptureFixture) -> None:
    resume().record(Kind.LOG, 1, {"loss": 1.0, "epoch": 0.1, "gone": 1})
    resume({"position": 0, "awaited": []}).record(Kind.LOG, 1, {"loss": math.nan, "epoch": 0.1, "new": "x"})
    (warning,) = warnings_in(caplog)
    assert warning[1] == "diverged at step 1: loss nan was 1.0, new 'x' was None, gone None was 1; the new values count"


@pytest.mark.parametrize("is_deterministic", [False, True])
def test_a_difference_of_rounding_is_a_note_unless_there_should_be_none(
    tmp_path: Path, resume: Resume, caplog: pytest.LogCaptureFixture, is_deterministic: bool
) -> None:
    caplog.set_level(logging.INFO, "loopwright")
    log_steps(resume(), range(1, 4))
    second = resume({"position": 0, "awaited": []})
    second.is_deterministic = is_deterministic
    log_steps(second, range(1, 4), factor=1.0001)
    (said,) = warnings_in(caplog)
    if is_deterministic:
        assert said == (logging.WARNING, "diverged at step 1: loss 1.0001 was 1.0; the new values count")
    else:
        assert said == (logging.INFO, "differs by rounding from step 1 on: loss 1.0001 was 1.0")
    assert losses_in(tmp_path) == [(step, 1.0001 / step) for step in range(1, 4)]


@pytest.mark.parametrize(
    ("before", "now"),
    [(0.5, 0.502), (0.5, math.nan), (100_000, 100_001), (0.5, "0.5"), ([0.5], [0.5001]), (math.inf, -math.inf)],
)
def test_what_no_rounding_explains_is_said_aloud(
    resume: Resume, caplog: pytest.LogCaptureFixture, before: Any, now: Any
) -> None:
    resume().record(Kind.LOG, 1, {"value": before})
    resume({"position": 0, "awaited": []}).record(Kind.LOG, 1, {"value": now})
    expected = f"diverged at step 1: value {now!r} was {before!r}; the new values count"
    assert warnings_in(caplog) == [(logging.WARNING, expected)]


def test_a_record_that_does_not_come_again_is_a_difference(
    tmp_path: Path, resume: Resume, caplog: pytest.LogCaptureFixture
) -> None:
    log_steps(resume(), range(1, 6))
    second = resume({"position": 1, "awaited": []}, first_step=1)
    log_steps(second, range(2, 4))
    log_steps(second, range(5, 7))
    expected = "diverged at step 4: what was recorded at step 4 did not come again; the new values count"
    assert warnings_in(caplog) == [(logging.WARNING, expected)]
    assert [step for step, _ in losses_in(tmp_path)] == [1, 2, 3, 5, 6]
    assert records_in(tmp_path, kinds=[Kind.REWIND])[0].values == {"from_step": 4}


def test_a_record_that_was_not_there_is_a_difference(
    tmp_path: Path, resume: Resume, caplog: pytest.LogCaptureFixture
) -> None:
    log_steps(resume(), range(2, 7, 2))
    log_steps(resume({"position": 0, "awaited": []}), range(1, 7))
    expected = "diverged at step 1: something was recorded at step 1 that was not before; the new values count"
    assert warnings_in(caplog) == [(logging.WARNING, expected)]
    assert [step for step, _ in losses_in(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_what_never_came_again_is_dropped_when_the_training_is_over(tmp_path: Path, resume: Resume) -> None:
    first = resume()
    log_steps(first, range(1, 4))
    first.record(Kind.PREDICTION, 3, {"test_loss": 1.0})
    second = resume({"position": 1, "awaited": []}, first_step=1)
    log_steps(second, range(2, 4))
    second.end_attempt(Status.COMPLETED)
    found = [(record.sequence, record.kind, record.values.get("from_step")) for record in records_in(tmp_path)]
    assert found == [(1, "log", None), (2, "log", None), (3, "log", None), (5, "rewind", 3)]


@pytest.mark.parametrize("status", [Status.FAILED, Status.INTERRUPTED, Status.PREEMPTED])
def test_what_has_not_come_again_yet_stays_when_the_training_is_cut_off(
    tmp_path: Path, resume: Resume, status: Status
) -> None:
    log_steps(resume(), range(1, 6))
    second = resume({"position": 0, "awaited": []})
    log_steps(second, range(1, 3))
    second.end_attempt(status)
    second.record(Kind.LOG, 2, {"eval_loss": 1.0})  # an evaluation by hand says nothing about the training
    assert [record.step for record in records_in(tmp_path)] == [1, 2, 3, 4, 5, 2]
    assert records_in(tmp_path, kinds=[Kind.REWIND]) == []


def test_trackers_go_back_no_further_than_what_they_have_shown(tmp_path: Path, resume: Resume) -> None:
    first = resume()
    first.record(Kind.ARTIFACT, 1, {"path": "a"})
    first.decide(Decision(2, "MyCallback", "on_step_end", "should_log", True))
    first.record(Kind.CHECKPOINT, 2, {"path": "checkpoint-2"})
    second = resume({"position": 0, "awaited": []})
    second.end_attempt(Status.COMPLETED)
    assert records_in(tmp_path) == []  # nothing that is shown, so nothing to take back


def test_a_run_that_diverged_is_compared_with_what_counts_now(
    tmp_path: Path, journal_kind: str, resume: Resume, caplog: pytest.LogCaptureFixture
) -> None:
    log_steps(resume(), range(1, 6))
    log_steps(resume({"position": 2, "awaited": []}, first_step=2), range(3, 6), factor=2.0)
    caplog.clear()
    third = resume({"position": 2, "awaited": []}, first_step=2)
    assert log_steps(third, range(3, 7), factor=2.0) == [7, 8, 9, 10]
    assert caplog.records == []
    assert losses_in(tmp_path) == [(step, (2.0 if step > 2 else 1.0) / step) for step in range(1, 7)]
    assert len(records_in(tmp_path, kinds=[Kind.REWIND])) == 1


# Crashes while repeating


def test_a_checkpoint_in_the_middle_of_repeating_knows_what_is_awaited_still(
    tmp_path: Path, journal_kind: str, resume: Resume, caplog: pytest.LogCaptureFixture
) -> None:
    log_steps(resume(), range(1, 9))
    second = resume({"position": 2, "awaited": []}, first_step=2)
    log_steps(second, range(3, 6))
    whereabouts = second.whereabouts()
    assert whereabouts == {"position": 8, "awaited": [6, 7, 8]}
    log_steps(second, range(6, 7))
    third = resume(json.loads(json.dumps(whereabouts)), first_step=5)
    assert log_steps(third, range(6, 11)) == [6, 7, 8, 9, 10]
    assert caplog.records == []
    assert [record.step for record in records_in(tmp_path)] == list(range(1, 11))


@pytest.mark.parametrize(("kind", "seeds"), [("sqlite", 30), ("lines", 15)])
def test_whatever_the_crashes_what_counts_is_what_an_undisturbed_run_says(
    tmp_path: Path, start: Callable[..., Any], kind: str, seeds: int
) -> None:
    program = Path(__file__).with_name("repeat_until_done.py").read_text(encoding="utf-8")
    process = start(program, tmp_path, kind, seeds)
    printed, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")  # nor has anything diverged
    outcomes = [json.loads(line) for line in printed.splitlines()]
    assert len(outcomes) == seeds
    for seed, outcome in enumerate(outcomes):
        # A checkpoint's record is missing where a kill came between the two; it never comes twice.
        saved = [record[1] for record in outcome["found"] if record[0] == "checkpoint"]
        assert saved == sorted(set(saved)), seed
        found, expected = (
            [record for record in outcome[name] if record[0] != "checkpoint"] for name in ("found", "expected")
        )
        assert repr(found) == repr(expected), seed
        assert Counter(outcome["statuses"]) == Counter({"killed": outcome["crashes"], "completed": 1})
    assert sum(outcome["crashes"] for outcome in outcomes) > 3 * seeds


# By itself


def test_volatile_keys_are_known_by_their_names() -> None:
    volatile = ["train_runtime", "eval_steps_per_second", "step_time", "wait_seconds", "gpu_memory", "init_mem_cpu"]
    assert [key for key in volatile if not is_volatile(key)] == []
    assert [key for key in ("loss", "epoch", "learning_rate", "timestep", "runtime_loss") if is_volatile(key)] == []


def test_an_empty_repetition_awaits_nothing() -> None:
    repetition = Repetition()
    assert not repetition
    assert repetition.take("log", 1, {"loss": 1.0}, NOTHING, None) is None
    assert (repetition.sequences(), repetition.give_up()) == ([], [])


def test_what_is_given_up_is_awaited_no_more() -> None:
    kinds = ("log", "decision", "log")
    repetition = Repetition(Awaited(number, kind, number, {}, NOTHING, None) for number, kind in enumerate(kinds, 1))
    assert repetition.sequences() == [1, 2, 3]
    assert [record.sequence for record in repetition.give_up()] == [1, 2, 3]
    assert not repetition


def test_rewinding_goes_to_the_first_step_that_was_shown() -> None:
    def awaited(kind: Kind, step: int) -> Awaited:
        return Awaited(step, kind, step, {}, NOTHING, None)

    assert rewinds_to([awaited(Kind.DECISION, 1), awaited(Kind.LOG, 4), awaited(Kind.PREDICTION, 3)]) == 3
    assert rewinds_to([awaited(Kind.DECISION, 1), awaited(Kind.CHECKPOINT, 2)]) is None
