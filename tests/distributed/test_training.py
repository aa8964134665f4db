"""Training in several processes is the training of one with the same batches, and they stay together."""

import json
import socket
import time

import numpy as np
import pytest

from loopwright.journal.reader import JournalReader
from loopwright.records import Status
from tests.distributed.launching import launch, returned
from tests.distributed.trainings import (
    train,
    train_in_a_group_of_ones_own,
    train_one_coming_late,
    train_reporting,
    train_where_a_disk_is_full,
    train_where_memory_runs_out,
    train_with_numbers_of_each,
)


def run(tmp_path, number, name="out", callbacks=(), resume="", timeout=120.0, **options):
    """Return what each process of a training returned."""
    arguments = (tmp_path / name, json.dumps(options), json.dumps(callbacks), resume)
    return returned(train, number, tmp_path, *arguments, timeout=timeout)


def assert_same_training(found, expected):
    for one in found:
        np.testing.assert_allclose(one["weights"], expected["weights"], rtol=1e-5, atol=1e-6)
    assert found[0]["step"] == expected["step"]
    for line, other in zip(found[0]["history"], expected["history"], strict=True):
        assert line.keys() == other.keys()
        for key in line.keys() - {"total_flos"}:  # each process is taken to do the same, also where a batch is short
            assert line[key] == pytest.approx(other[key], rel=1e-5, abs=1e-7), key


CASES = {
    "22 examples, the last batch short": {},
    "of which the last batch is one example": {"count": 17},
    "accumulation": {"gradient_accumulation_steps": 2},
    "model that divides by items": {"model": "divides"},
    "model that divides, last batch of one": {"model": "divides", "count": 17, "gradient_accumulation_steps": 2},
    "drop_last": {"dataloader_drop_last": True},
    "tokens counted": {"include_num_input_tokens_seen": "all", "count": 17},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_two_processes_are_one_with_the_same_batches(tmp_path, options):
    (alone,) = run(tmp_path, 1, "one", **options)
    both = run(tmp_path, 2, "two", **options)
    assert_same_training(both, alone)
    assert both[0]["tokens"] == alone["tokens"]


def test_four_processes_too_and_no_example_is_lost_or_doubled(tmp_path):
    (alone,) = run(tmp_path, 1, "one", count=19)
    four = run(tmp_path, 4, "four", count=19)
    assert_same_training(four, alone)
    # 19 = 8 + 8 + 3: the fourth process has no part of the last batch, and stands in with an example of another's.
    seen = sorted(number for one in four for number in one["seen"])
    stand_ins = 2
    assert len(seen) == 2 * 19 + stand_ins
    assert set(seen) == set(range(19))


@pytest.mark.parametrize("count", [22, 17, 24])
def test_streams_are_dealt_out(tmp_path, count):
    options = {"dataset": "stream", "count": count, "max_steps": 6, "logging_steps": 1}
    (alone,) = run(tmp_path, 1, "one", **options)
    both = run(tmp_path, 2, "two", **options)
    assert_same_training(both, alone)


@pytest.mark.parametrize("rank", [0, 1])
def test_flag_of_one_process_is_acted_on_by_both_at_one_step(tmp_path, rank):
    both = run(
        tmp_path,
        2,
        callbacks=[["Sets", "should_save", 3, rank], ["Sets", "should_training_stop", 5, rank]],
        max_steps=30,
        save_strategy="steps",
        save_steps=1000,
    )
    assert both[0]["step"] == both[1]["step"] < 30
    assert both[0]["steps"]["save"] == both[1]["steps"]["save"]
    assert both[0]["steps"]["save"][0] in range(3, 30)
    own = f"step 5: {'rank 1: ' if rank else ''}Sets set should_training_stop in on_step_end"
    assert own in both[0]["decisions"]


@pytest.mark.parametrize("rank", [0, 1])
def test_save_that_one_process_does_not_want_hangs_nobody(tmp_path, rank):
    both = run(
        tmp_path,
        2,
        callbacks=[["Sets", "should_save", 4, rank, "on_step_end", False]],
        max_steps=8,
        save_strategy="steps",
        save_steps=2,
    )
    assert both[0]["steps"]["save"] == both[1]["steps"]["save"] == [2, 6, 8]


def test_flag_set_in_the_middle_of_an_update_waits_for_its_end(tmp_path):
    both = run(
        tmp_path,
        2,
        callbacks=[["Sets", "should_training_stop", 2, 1, "on_substep_end"]],
        max_steps=30,
        gradient_accumulation_steps=2,
    )
    assert both[0]["step"] == both[1]["step"]
    assert 3 <= both[0]["step"] < 30


def test_exception_on_one_process_ends_the_other_soon_and_is_what_it_says(tmp_path):
    begin = time.monotonic()
    ended = launch(
        train, 2, tmp_path, tmp_path / "out", json.dumps({"max_steps": 1000}), json.dumps([["Dies", 3, 1, "raise"]]), ""
    )
    assert time.monotonic() - begin < 60
    assert all(one.status != 0 for one in ended)
    assert "ValueError: the cat is on the keyboard" in ended[1].output
    assert "RankFailed: rank 1: ValueError: the cat is on the keyboard" in ended[0].output


def test_killed_process_ends_the_other_soon(tmp_path):
    begin = time.monotonic()
    ended = launch(
        train, 2, tmp_path, tmp_path / "out", json.dumps({"max_steps": 1000}), json.dumps([["Dies", 3, 1, "kill"]]), ""
    )
    assert time.monotonic() - begin < 60
    assert [one.status for one in ended][1] == -9
    assert ended[0].status not in (0, -9)


def test_signal_to_one_process_saves_and_ends_both(tmp_path):
    options = {"max_steps": 1000, "save_strategy": "steps", "save_steps": 1000}
    ended = launch(
        train, 2, tmp_path, tmp_path / "out", json.dumps(options), json.dumps([["Dies", 3, 1, "term"]]), "", timeout=60
    )
    assert [one.status for one in ended] == [128 + 15] * 2
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) == 1


def test_early_stopping_and_the_best_checkpoint_are_those_of_one_process(tmp_path):
    options = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "learning_rate": 0.5,
        "num_train_epochs": 20,
    }
    stopping = [["EarlyStopping", 2]]
    (alone,) = run(tmp_path, 1, "one", callbacks=stopping, **options)
    both = run(tmp_path, 2, "two", callbacks=stopping, **options)
    assert alone["step"] < 60, "this is about a training that stops early"
    assert_same_training(both, alone)
    assert both[0]["steps"]["save"] == both[1]["steps"]["save"] == alone["steps"]["save"]
    assert both[0]["decisions"] == alone["decisions"], "all have decided the same, which is one decision"


RESUMES = {"at once": {}, "beside": {"save_async": True}, "accumulation": {"gradient_accumulation_steps": 2}}


@pytest.mark.parametrize("options", RESUMES.values(), ids=RESUMES)
def test_resumed_training_is_the_training(tmp_path, options):
    options = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 4, **options}
    whole = run(tmp_path, 2, "whole", **options)
    launch(train, 2, tmp_path, tmp_path / "broken", json.dumps(options), json.dumps([["Dies", 5, 1, "kill"]]), "")
    again = run(tmp_path, 2, "broken", resume="auto", **options)
    for one, other in zip(again, whole, strict=True):
        assert one["weights"] == other["weights"]
    assert again[0]["history"] == whole[0]["history"]
    assert again[0]["steps"]["save"] == again[1]["steps"]["save"]


def test_checkpoint_of_two_goes_on_with_one_and_four(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 4}
    (expected,) = run(tmp_path, 1, "expected", **options)
    stop = [["Sets", "should_training_stop", 4, 0]]
    run(tmp_path, 2, "out", callbacks=stop, **options)
    run(tmp_path, 1, "out", callbacks=[["Sets", "should_training_stop", 6, 0]], resume="auto", **options)
    four = run(tmp_path, 4, "out", resume="auto", **options)
    assert_same_training(four, expected)


def test_no_checkpoint_is_left_out_while_another_becomes_durable(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "save_async": True, "num_train_epochs": 4}
    both = run(tmp_path, 2, **options)
    assert both[0]["steps"]["save"] == both[1]["steps"]["save"] == list(range(1, 13))


def test_process_that_comes_late_goes_on_where_the_others_do(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 4}
    whole = run(tmp_path, 2, "whole", **options)
    run(tmp_path, 2, "out", callbacks=[["Sets", "should_training_stop", 4, 0]], **options)
    again = returned(train_one_coming_late, 2, tmp_path, tmp_path / "out", 1, json.dumps(options), timeout=60)
    assert_same_training(again, whole[0])


def test_smaller_batches_are_made_up_for_by_accumulation(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 4}
    (expected,) = run(tmp_path, 1, "expected", **options)
    run(tmp_path, 2, "out", callbacks=[["Sets", "should_training_stop", 4, 0]], **options)
    (alone,) = run(tmp_path, 1, "out", resume="auto", per_device_train_batch_size=4, **options)
    assert_same_training([alone], expected)


def test_another_number_of_examples_in_an_update_is_refused(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    run(tmp_path, 2, "out", **options)
    ended = launch(
        train, 4, tmp_path, tmp_path / "out", json.dumps({**options, "per_device_train_batch_size": 4}), "[]", "auto"
    )
    assert all(one.status != 0 for one in ended)
    assert "take 16 at once, of which 8 is no multiple: choose a size that divides it" in ended[0].output


@pytest.mark.parametrize("beside", [False, True])
def test_disk_of_the_first_process_that_is_full_is_heard_of_by_all(tmp_path, beside):
    options = {"save_strategy": "steps", "save_steps": 2, "save_async": beside}
    warned = json.dumps({**options, "save_errors": "warn"})
    both = returned(train_where_a_disk_is_full, 2, tmp_path, tmp_path / "warns", 0, 2, warned)
    assert [one["checkpoints"] for one in both] == [["checkpoint-4", "checkpoint-6"]] * 2
    ended = launch(train_where_a_disk_is_full, 2, tmp_path, tmp_path / "raises", 0, 2, json.dumps(options))
    assert all(one.status != 0 for one in ended)
    assert all("checkpoint-2 could not be saved: [Errno 28] No space left on device" in one.output for one in ended)


def test_numbers_of_each_process_are_in_every_line(tmp_path):
    both = returned(train_with_numbers_of_each, 2, tmp_path, tmp_path / "out")
    assert len(both[0]["history"]) > 6
    for one in both:
        assert all((line["rank/0"], line["rank/1"]) == (0.5, 1.5) for line in one["history"])
    ended = launch(train_with_numbers_of_each, 2, tmp_path, tmp_path / "differ", "yes")
    assert all(
        "expected the same names on all processes, but rank 1 has rank1, rank 0 rank0" in one.output for one in ended
    )


def test_tracker_that_never_answers_keeps_no_process_waiting(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = json.dumps({"tracker_close_timeout": 2, "tracker_open_timeout": 2})
        both = returned(train_reporting, 2, tmp_path, tmp_path / "out", "mlflow", options, MLFLOW_TRACKING_URI=uri)
        alone = returned(train_reporting, 2, tmp_path, tmp_path / "none", "none", options)
    assert both[1]["weights"] == alone[1]["weights"]
    assert max(one["seconds"] for one in both) < 10, "the request alone would have taken minutes"
    assert JournalReader(tmp_path / "out").attempts()[-1].status is Status.COMPLETED


FINDS = {"auto_find_batch_size": True, "per_device_train_batch_size": 8, "count": 64, "num_train_epochs": 1}
SHORTAGES = {
    "first forward of the first": [(0, "forward", 0)],
    "first forward of the other": [(1, "forward", 0)],
    "backward, gradients on their way": [(1, "backward", 2)],
    "optimizer, the other being ahead": [(1, "optimizer", 1)],
    "both at once": [(0, "forward", 1), (1, "forward", 1)],
}


@pytest.mark.parametrize("faults", SHORTAGES.values(), ids=SHORTAGES)
def test_memory_out_on_one_process_lets_all_begin_again_with_half_the_batch(tmp_path, faults):
    def find(name, faults, **options):
        arguments = (tmp_path / name, json.dumps(faults), json.dumps(FINDS | options))
        return returned(train_where_memory_runs_out, 2, tmp_path, *arguments)

    expected = find("expected", [], per_device_train_batch_size=2)
    found = find("found", faults)
    hit = {rank for rank, *_ in faults}
    for rank, (one, other) in enumerate(zip(found, expected, strict=True)):
        # Two that run out at once hear of the others' break before their own, or not: at least one has said it.
        assert set(one["raised"]) <= {8, 4}
        assert one["size"] == 2
        assert one["weights"] == other["weights"]
        assert one["history"] == other["history"]
        assert one["seen"][-len(other["seen"]) :] == other["seen"]
        assert bool(one["raised"]) == (rank in hit) or len(hit) == 2
    assert sorted({size for one in found for size in one["raised"]}) == [4, 8]
    with JournalReader(tmp_path / "found") as reader:
        statuses = [attempt.status for attempt in reader.attempts()]
    assert statuses == [Status.FAILED, Status.FAILED, Status.COMPLETED]


@pytest.mark.parametrize("other", ["callback", "optimizer"])
def test_process_that_fails_of_something_else_is_not_waited_for(tmp_path, other):
    faults = [(0, "optimizer", 1), (1, other, 1 if other == "optimizer" else 2, "the cat is on the keyboard")]
    started = time.monotonic()
    both = launch(train_where_memory_runs_out, 2, tmp_path, tmp_path / "out", json.dumps(faults), json.dumps(FINDS))
    assert [one.status for one in both] == [1, 1]
    assert "ValueError: the cat is on the keyboard" in both[1].output
    # Whichever came first is what the first process says: that it ran out itself, or why it can't begin again.
    last = both[0].output.splitlines()[-1]
    assert "OutOfMemoryError: injected" in last or "rank 1: ValueError: the cat is on the keyboard" in last
    assert time.monotonic() - started < 60


def test_what_cannot_begin_again_together_is_refused(tmp_path):
    own_group = launch(train_in_a_group_of_ones_own, 2, tmp_path, tmp_path / "own", json.dumps(FINDS))
    sharded = launch(train, 2, tmp_path, tmp_path / "sharded", json.dumps(FINDS | {"fsdp": "full_shard"}))
    assert [one.status for one in (*own_group, *sharded)] == [1] * 4
    # Both are refused it; the one that is quicker may be gone before the other has come to that.
    assert any("leave torch.distributed.init_process_group to the Trainer" in one.output for one in own_group)
    assert any("auto_find_batch_size=True with fsdp=" in one.output for one in sharded)
    without = {name: value for name, value in FINDS.items() if name != "auto_find_batch_size"}
    assert returned(train_in_a_group_of_ones_own, 2, tmp_path, tmp_path / "whole", json.dumps(without))


def test_wrapped_model_that_a_callback_holds_is_named_and_nobody_hangs(tmp_path):
    arguments = (json.dumps([(1, "forward", 0)]), json.dumps(FINDS), "held")
    both = launch(train_where_memory_runs_out, 2, tmp_path, tmp_path / "out", *arguments, timeout=90)
    assert [one.status for one in both] == [1, 1]
    assert any("something outside the Trainer still holds its wrapped model" in one.output for one in both)


def test_memory_that_does_not_suffice_for_one_example_ends_all(tmp_path):
    options = FINDS | {"per_device_train_batch_size": 4, "count": 16}
    faults = [(1, "forward", 0, "OutOfMemoryError", 0)]
    both = launch(train_where_memory_runs_out, 2, tmp_path, tmp_path / "out", json.dumps(faults), json.dumps(options))
    assert all(
        "not even batches of 1 fit into memory: rank 1: OutOfMemoryError: injected" in one.output for one in both
    )
