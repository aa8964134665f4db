"""Saves beside the training and at its ends: what is in them, when callbacks hear of them, and what fails with them."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from loopwright import Trainer, TrainerCallback, TrainingArguments
from loopwright.checkpoint import find_damage, list_checkpoints, load_model_weights, load_optimizer, load_trainer_state
from loopwright.errors import CheckpointError, Preempted
from loopwright.journal import file as files
from loopwright.journal.reader import JournalReader
from loopwright.loop import saving
from loopwright.records import Kind, Status
from tests.loop.test_resume import Network, build, steady
from tests.loop.test_signals import Witness, assert_same_end

BESIDE = {"save_async": True, "save_steps": 100, "max_steps": 7, "logging_steps": 2}


class AtStep(TrainerCallback):
    """Does `act` when `event` comes at one of `steps`."""

    def __init__(self, steps, act, event="on_step_end"):
        def listen(args, state, control, **kwargs):
            if state.global_step in ([steps] if isinstance(steps, int) else steps):
                act(control)

        setattr(self, event, listen)


def save(control):
    control.should_save = True


def fail(control):
    raise ValueError("of a callback")


class Gate:
    """Holds every write back while it is closed."""

    def __init__(self, write):
        self.write = write
        self.begun, self.at_once, self.most_at_once = [], 0, 0
        self._is_open = threading.Event()
        self.open()

    def __call__(self, snapshot, output_dir):
        self.begun.append(snapshot.step)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self._is_open.wait(30)
        try:
            return self.write(snapshot, output_dir)
        finally:
            self.at_once -= 1

    def open(self, control=None):
        self._is_open.set()

    def close(self, control=None):
        self._is_open.clear()

    def open_soon(self, control=None):
        threading.Timer(0.15, self.open).start()


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(saving.write_checkpoint)
    monkeypatch.setattr(saving, "write_checkpoint", gate)
    return gate


def let_through(gate, trainer):
    """Return what opens the gate and waits until the write under way has ended, without the training noticing."""

    def act(control):
        gate.open()
        until = time.monotonic() + 30
        while trainer.saving._under_way is not None and not trainer.saving._under_way.future.done():
            assert time.monotonic() < until
            time.sleep(0.002)

    return act


def checkpoints(directory):
    """Return the steps saved in `directory`; nothing half-written is there, and all are whole."""
    found = list_checkpoints(directory)
    assert [path.name for path in directory.glob(".checkpoint*")] == []
    assert [damage for path in found for damage in find_damage(path)] == []
    return [int(path.name.removeprefix("checkpoint-")) for path in found]


class Weights(TrainerCallback):
    """Keeps the weights of every step."""

    def __init__(self):
        self.by_step = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.by_step[state.global_step] = {name: value.clone() for name, value in model.state_dict().items()}


# Beside the training


def test_threads_take_shorter_turns_while_a_checkpoint_is_written(tmp_path, gate):
    found = []

    def look(control):
        until = time.monotonic() + 30
        while gate.at_once < (len(found) == 1):  # the thread may not have come to it yet
            assert time.monotonic() < until
            time.sleep(0.002)
        found.append(sys.getswitchinterval())

    trainer = build(tmp_path, callbacks=(AtStep([1, 4], look), AtStep(2, save), AtStep(2, gate.close)), **BESIDE)
    trainer.add_callback(AtStep(5, let_through(gate, trainer)))
    trainer.add_callback(AtStep(6, look))
    trainer.train()
    before, beside, after = found
    assert beside < before
    assert after == before


def test_a_checkpoint_beside_training_holds_the_step_it_was_asked_at_though_training_went_on(tmp_path, gate):
    weights = Weights()
    trainer = build(tmp_path, callbacks=(weights, AtStep(2, save), AtStep(2, gate.close)), **BESIDE)
    trainer.add_callback(AtStep(5, let_through(gate, trainer)))
    trainer.train()
    assert checkpoints(tmp_path) == [2, 7]
    for step in (2, 7):
        model = Network()
        load_model_weights(model, tmp_path / f"checkpoint-{step}")
        for name, value in weights.by_step[step].items():
            assert torch.equal(model.state_dict()[name], value), name
        optimizer = load_optimizer(tmp_path / f"checkpoint-{step}")
        assert {float(state["step"]) for state in optimizer["state"].values()} == {step}
    state = load_trainer_state(tmp_path / "checkpoint-2")
    assert state.global_step == 2
    assert [line["step"] for line in state.log_history] == [2]
    assert state.stateful_callbacks["Counter"][0]["attributes"] == {"seen": 2}


class Meddler(TrainerCallback):
    """Looks at what `on_save` gets, and changes it."""

    def __init__(self, directory, **flags):
        self.directory, self.flags = directory, flags
        self.trainer, self.seen = None, []

    def on_save(self, args, state, control, **kwargs):
        is_there = find_damage(self.directory / f"checkpoint-{state.global_step}") == []
        lines = [line["step"] for line in state.log_history]
        self.seen.append((state.global_step, self.trainer.state.global_step, is_there, lines, control.should_save))
        if state is not self.trainer.state:
            state.global_step = 99
            state.log_history[0]["loss"] = -1.0
            state.log_history.append({"step": 99})
            state.stateful_callbacks.clear()
        for name, value in self.flags.items():
            setattr(control, name, value)


def build_meddled(tmp_path, gate, **flags):
    meddler = Meddler(tmp_path, **flags)
    trainer = build(tmp_path, callbacks=(AtStep(2, save), AtStep(2, gate.close), meddler), **BESIDE)
    trainer.add_callback(AtStep(5, let_through(gate, trainer)))
    meddler.trainer = trainer
    return trainer, meddler


def test_on_save_comes_once_the_checkpoint_is_on_the_disk_with_a_copy_of_its_state(tmp_path, gate):
    plain = build(tmp_path / "plain", **BESIDE)
    plain.train()
    trainer, meddler = build_meddled(tmp_path, gate)
    trainer.train()
    assert meddler.seen == [(2, 5, True, [2], False), (7, 7, True, [2, 4, 6], False)]
    assert steady(trainer.state.log_history) == steady(plain.state.log_history)
    assert trainer.state.global_step == 7
    assert trainer.state.stateful_callbacks.keys() == plain.state.stateful_callbacks.keys()


def test_flags_that_on_save_sets_are_honoured(tmp_path, gate):
    trainer, meddler = build_meddled(tmp_path, gate, should_training_stop=True)
    trainer.train()
    assert trainer.state.global_step == 5
    assert len(meddler.seen) == 1
    with JournalReader(tmp_path) as reader:
        attempt = reader.attempts()[-1]
    assert attempt.status is Status.STOPPED
    assert "Meddler" in attempt.reason


def test_should_save_falls_when_the_state_is_copied(tmp_path, gate):
    flags = []
    watch = AtStep(7, lambda control: flags.append(control.should_save), event="on_epoch_end")
    callbacks = (AtStep(7, save), AtStep(7, gate.close), watch, AtStep(8, gate.open))
    build(tmp_path, callbacks=callbacks, **{**BESIDE, "max_steps": 14}).train()
    assert flags == [False]
    assert gate.begun == [7, 14]


def test_the_journal_records_a_checkpoint_with_its_own_step(tmp_path, gate):
    trainer, _ = build_meddled(tmp_path, gate)
    trainer.train()
    with JournalReader(tmp_path) as reader:
        records = reader.records(kinds=[Kind.CHECKPOINT])
    assert [(record.step, record.values["path"]) for record in records] == [(2, "checkpoint-2"), (7, "checkpoint-7")]


# One at a time


def test_a_save_waits_for_the_one_before(tmp_path, gate):
    witness = Witness()
    callbacks = (witness, AtStep((2, 3), save), AtStep(2, gate.close), AtStep(3, gate.open_soon))
    build(tmp_path, callbacks=callbacks, **BESIDE).train()
    assert gate.begun == witness.saved == checkpoints(tmp_path) == [2, 3, 7]
    assert gate.most_at_once == 1


def test_a_busy_save_is_skipped_and_said_but_the_last_steps_never(tmp_path, gate, caplog):
    witness = Witness()
    callbacks = (witness, AtStep((2, 3, 6), save), AtStep((2, 6), gate.close), AtStep(7, gate.open_soon))
    trainer = build(tmp_path, callbacks=callbacks, save_async_busy="skip", **BESIDE)
    trainer.add_callback(AtStep(5, let_through(gate, trainer)))
    trainer.train()
    assert gate.begun == witness.saved == checkpoints(tmp_path) == [2, 6, 7]
    assert gate.most_at_once == 1
    assert "no checkpoint at step 3" in caplog.text
    assert caplog.text.count("no checkpoint at step") == 1


def build_scored(directory, scores, **options):
    """Return a Trainer whose evaluation at each step finds what `scores` says."""
    defaults = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
        "metric_for_best_model": "score",
        "greater_is_better": True,
    }
    trainer = build(directory, **{**BESIDE, **defaults, **options})
    trainer.compute_metrics = lambda prediction: {"score": scores[trainer.state.global_step - 1]}
    return trainer


def test_a_busy_save_of_the_best_step_is_never_skipped(tmp_path, gate):
    callbacks = (AtStep(1, gate.close), AtStep(4, gate.open_soon))
    trainer = build_scored(tmp_path, [1, 1, 1, 5, 1, 1, 1], callbacks=callbacks, save_async_busy="skip")
    trainer.train()
    assert gate.begun[:2] == [1, 4]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")


# Which are kept


@pytest.mark.parametrize("save_async", [False, True])
@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"save_total_limit": 2, "metric_for_best_model": None}, [6, 7]),
        ({"save_total_limit": 2}, [3, 7]),
        ({"save_total_limit": 2, "load_best_model_at_end": True}, [3, 7]),
        ({"save_total_limit": 1, "load_best_model_at_end": True}, [3, 7]),
        ({"save_top_k": 2}, [3, 5, 7]),
        ({"save_top_k": 1, "save_total_limit": 3}, [3, 6, 7]),
        ({"save_strategy": "best", "save_total_limit": 1}, [3]),
    ],
)
def test_limits_leave_the_same_checkpoints_beside_training_as_at_once(options, kept, save_async, tmp_path):
    trainer = build_scored(tmp_path, [1, 2, 9, 3, 8, 0, 1], **options, save_async=save_async)
    weights = Weights()
    trainer.add_callback(weights)
    trainer.train()
    assert checkpoints(tmp_path) == kept
    assert trainer.state.best_model_checkpoint == (str(tmp_path / "checkpoint-3") if 3 in kept else None)
    loaded = weights.by_step[3 if options.get("load_best_model_at_end") else 7]
    assert all(torch.equal(value, loaded[name]) for name, value in trainer.model.state_dict().items())


def test_the_best_checkpoint_is_found_at_the_end_though_it_was_still_being_written(tmp_path, gate):
    callbacks = (AtStep(7, gate.close), AtStep(7, gate.open_soon))
    trainer = build_scored(tmp_path, range(7), callbacks=callbacks, load_best_model_at_end=True)
    trainer.train()
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-7")
    assert checkpoints(tmp_path)[-1] == 7


# When it fails


class Heavy(Network):
    """Too large for the files that a full disk takes."""

    def __init__(self):
        super().__init__()
        self.ballast = nn.Parameter(torch.zeros(500_000))

    def forward(self, x, labels=None):
        outputs = super().forward(x, labels)
        return {**outputs, "loss": outputs["loss"] + self.ballast[:2].sum()}


class Disk:
    def __init__(self):
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, control=None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, self.limits[1]))

    def clear(self, control=None):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


@pytest.fixture
def disk():
    disk = Disk()
    yield disk
    disk.clear()


def build_heavy(directory, gate, disk, **options):
    """Return a Trainer that saves at steps 2 and 4, the disk being full from 3 to 5."""
    witness = Witness()

    def fill(control):
        until = time.monotonic() + 30
        while (gate.at_once or not list_checkpoints(directory)) and time.monotonic() < until:
            time.sleep(0.01)
        disk.fill()

    callbacks = (AtStep((2, 4), save), AtStep(3, fill), AtStep(5, disk.clear), witness)
    trainer = build(directory, callbacks=callbacks, optim="sgd", **{**BESIDE, **options})
    trainer.model = trainer.model_wrapped = Heavy()
    trainer.callback_handler.callbacks.insert(0, AtStep((4, 5), let_through(gate, trainer)))
    return trainer, witness


@pytest.mark.parametrize("save_async", [False, True])
def test_a_full_disk_ends_the_training_with_the_name_of_the_checkpoint(save_async, tmp_path, gate, disk):
    trainer, witness = build_heavy(tmp_path, gate, disk, save_async=save_async)
    with pytest.raises(CheckpointError, match=r"checkpoint-4 could not be saved.*File too large") as caught:
        trainer.train()
    # Beside the training it is raised a step later at the most: the thread may have ended by the same step's end.
    assert trainer.state.global_step in ({4, 5} if save_async else {4})
    assert witness.saved == [2]
    assert witness.exceptions == [caught.value]
    assert checkpoints(tmp_path) == [2]
    with JournalReader(tmp_path) as reader:
        assert reader.attempts()[-1].status is Status.FAILED


@pytest.mark.parametrize("save_async", [False, True])
def test_with_warn_a_full_disk_costs_a_checkpoint_and_nothing_else(save_async, tmp_path, gate, disk, caplog):
    trainer, witness = build_heavy(tmp_path, gate, disk, save_async=save_async, save_errors="warn")
    trainer.train()
    assert trainer.state.global_step == 7
    assert "NO CHECKPOINT" in caplog.text
    assert "checkpoint-4" in caplog.text
    assert witness.saved == checkpoints(tmp_path) == [2, 7]
    with JournalReader(tmp_path) as reader:
        assert reader.attempts()[-1].status is Status.COMPLETED
        assert [record.step for record in reader.records(kinds=[Kind.CHECKPOINT])] == [2, 7]


@pytest.mark.parametrize("save_async", [False, True])
def test_where_the_best_steps_checkpoint_failed_the_one_before_is_loaded_at_the_end(save_async, tmp_path, gate, disk):
    trainer, _ = build_heavy(
        tmp_path,
        gate,
        disk,
        save_async=save_async,
        save_errors="warn",
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        save_total_limit=1,
        metric_for_best_model="score",
        load_best_model_at_end=True,
    )
    trainer.compute_metrics = lambda prediction: {"score": {2: 5, 4: 9}.get(trainer.state.global_step, 0)}
    weights = Weights()
    trainer.add_callback(weights)
    trainer.train()
    assert checkpoints(tmp_path) == [2, 7]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    assert torch.equal(trainer.model.ballast, weights.by_step[2]["ballast"])


@pytest.mark.parametrize("save_async", [False, True])
def test_a_signal_after_a_failed_save_saves_that_step_again(save_async, tmp_path, gate, disk):
    write = gate.write

    def full_at_first(snapshot, output_dir):
        if gate.begun.count(4) == 1:
            disk.fill()
        try:
            return write(snapshot, output_dir)
        finally:
            disk.clear()

    gate.write = full_at_first
    trainer, witness = build_heavy(tmp_path, gate, disk, save_async=save_async, save_errors="warn")
    trainer.add_callback(AtStep(3, disk.clear))
    trainer.add_callback(AtStep(4, lambda control: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Preempted):
        trainer.train()
    assert gate.begun == [2, 4, 4]
    assert witness.saved == checkpoints(tmp_path) == [2, 4]


# Ends that wait for it


@pytest.mark.parametrize("error", [ValueError("of a callback"), KeyboardInterrupt()])
def test_an_exception_waits_for_the_checkpoint_under_way(error, tmp_path, gate):
    witness = Witness()

    def end(control):
        gate.open_soon()
        raise error

    by_then = []
    watch = AtStep(4, lambda control: by_then.append(list(witness.saved)), event="on_exception")
    callbacks = (witness, watch, AtStep(2, save), AtStep(2, gate.close), AtStep(4, end))
    with pytest.raises(type(error)):
        build(tmp_path, callbacks=callbacks, **BESIDE).train()
    assert witness.saved == checkpoints(tmp_path) == [2]
    assert by_then == [[2]], "callbacks and the journal hear of it before they hear of the end"
    assert witness.exceptions == [error]
    assert all(not thread.name.startswith("loopwright-save") for thread in threading.enumerate())


def test_the_end_of_training_waits_for_the_checkpoint_under_way(tmp_path, gate):
    witness = Witness()
    ends = []
    callbacks = (
        witness,
        AtStep(7, gate.close),
        AtStep(7, gate.open_soon),
        AtStep(7, lambda control: ends.append(list(witness.saved)), event="on_train_end"),
    )
    build(tmp_path, callbacks=callbacks, **BESIDE).train()
    assert ends == [[7]]
    assert checkpoints(tmp_path) == [7]
    assert all(not thread.name.startswith("loopwright-save") for thread in threading.enumerate())


def test_ctrl_c_while_a_checkpoint_is_waited_for_waits_for_it_all_the_same(tmp_path, gate):
    witness = Witness()

    def interrupt_soon(control):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        threading.Timer(0.3, gate.open).start()

    callbacks = (witness, AtStep((2, 3), save), AtStep(2, gate.close), AtStep(3, interrupt_soon))
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, callbacks=callbacks, **BESIDE).train()
    assert witness.saved == checkpoints(tmp_path) == [2]


# Going on from one


class Kill(TrainerCallback):
    """Ends the training once it has gone so far; what was saved then is gone on from."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


class Tied(Network):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x, labels=None):
        return super().forward(x + self.second(self.first(x)), labels)


def plain(directory, **options):
    return build(directory, **options)


def tied(directory, **options):
    trainer = build(directory, **options)
    torch.manual_seed(1)
    trainer.model = trainer.model_wrapped = Tied()
    return trainer


def bert(directory, **options):
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
    )
    arguments = TrainingArguments(
        str(directory), report_to="none", use_cpu=True, disable_tqdm=True, per_device_train_batch_size=2, **options
    )
    rows = torch.randint(0, 30, (14, 5), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in rows]
    return Trainer(BertForMaskedLM(config), arguments, train_dataset=data)


@pytest.mark.parametrize("make", [plain, tied, bert])
def test_going_on_from_a_checkpoint_written_beside_training_is_exact(make, tmp_path, gate):
    options = {"save_async": True, "save_steps": 2, "max_steps": 10, "logging_steps": 3, "learning_rate": 1e-2}
    whole = make(tmp_path / "whole", **options)
    whole.train()
    trainer = make(tmp_path / "parts", **options)
    # The write of step 2 is over before the gate closes: it is that of step 4 which the gate holds.
    through = let_through(gate, trainer)
    for callback in (AtStep(3, through), AtStep(4, gate.close), AtStep(5, through), Kill(5)):
        trainer.add_callback(callback)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert checkpoints(tmp_path / "parts") == [2, 4]
    resumed = make(tmp_path / "parts", **options)
    torch.randn(17)
    resumed.train(resume_from_checkpoint=True)
    assert_same_end(resumed, whole)
    if make is tied:
        assert resumed.model.first.weight is resumed.model.second.weight
    if make is bert:
        assert (tmp_path / "parts" / "checkpoint-4" / "config.json").exists()
        embedding = resumed.model.get_input_embeddings().weight
        assert embedding is resumed.model.get_output_embeddings().weight


# At an exception


class Recording(nn.Module):
    """Draws nothing, and keeps the examples that it was trained on."""

    main_input_name = "x"

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.seen = []

    def forward(self, x, labels=None, number=None):
        if self.training:
            self.seen += number.tolist()
        return {"loss": (self.layers(x).squeeze(-1) - labels).square().mean()}


class Commit(TrainerCallback):
    """Takes the examples of an update once that counts."""

    def __init__(self):
        self.examples = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        model.seen.clear()

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.examples += model.seen
        model.seen.clear()


def build_recording(directory, *callbacks, **options):
    generator = torch.Generator().manual_seed(0)
    data = [
        {"x": torch.randn(3, generator=generator), "labels": torch.tensor(number / 14), "number": number}
        for number in range(14)
    ]
    torch.manual_seed(0)
    defaults = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "num_train_epochs": 3,
        "learning_rate": 1e-2,
        "logging_steps": 3,
        "save_steps": 100,
        "save_on_exception": True,
        "include_num_input_tokens_seen": "all",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    commit = Commit()
    arguments = TrainingArguments(str(directory), **(defaults | options))
    callbacks = [commit, *callbacks]
    return Trainer(Recording(), arguments, train_dataset=data, eval_dataset=data[:4], callbacks=callbacks), commit


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    trainer, commit = build_recording(tmp_path_factory.mktemp("recorded"))
    trainer.train()
    for epoch in range(3):
        assert sorted(commit.examples[14 * epoch : 14 * (epoch + 1)]) == list(range(14))
    return trainer, commit


class FailAt(TrainerCallback):
    def __init__(self, event, at, error):
        self.calls = 0

        def listen(args, state, control, **kwargs):
            self.calls += 1
            if self.calls == at:
                raise error

        setattr(self, event, listen)


@pytest.mark.parametrize("make_error", [lambda: ValueError("of a callback"), KeyboardInterrupt])
@pytest.mark.parametrize(
    ("event", "at", "step"),
    [
        ("on_step_begin", 3, 2),
        ("on_substep_end", 4, 1),
        ("on_substep_end", 5, 3),
        ("on_pre_optimizer_step", 5, 4),
        ("on_step_end", 3, 3),  # which is also one to be logged
        ("on_step_end", 4, 4),
        ("on_log", 1, 3),
        ("on_epoch_end", 1, 3),
        ("on_epoch_begin", 2, 3),
    ],
)
def test_at_an_exception_the_last_finished_step_is_saved_and_no_batch_lost_or_repeated(
    event, at, step, make_error, tmp_path, recorded
):
    whole, expected = recorded
    error = make_error()
    witness = Witness()
    trainer, commit = build_recording(tmp_path, witness, FailAt(event, at, error))
    with pytest.raises(type(error)):
        trainer.train()
    assert checkpoints(tmp_path) == [step]
    assert witness.saved == [step]
    assert witness.exceptions == [error]
    resumed, later = build_recording(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert commit.examples + later.examples == expected.examples
    # Nothing is drawn in this training: it is the same to the last bit, log lines and counted tokens included.
    assert_same_end(resumed, whole)
    assert resumed.state.num_input_tokens_seen == whole.state.num_input_tokens_seen


@pytest.mark.parametrize("event", ["on_epoch_end", "on_log", "on_prediction_step", "on_evaluate"])
def test_at_an_exception_what_an_epochs_end_asked_for_is_neither_lost_nor_repeated(event, tmp_path):
    epochs = {"logging_strategy": "epoch", "eval_strategy": "epoch", "save_strategy": "epoch"}
    whole, expected = build_recording(tmp_path / "whole", **epochs)
    whole.train()
    trainer, commit = build_recording(tmp_path / "parts", FailAt(event, 1, ValueError("of a callback")), **epochs)
    with pytest.raises(ValueError, match="of a callback"):
        trainer.train()
    assert checkpoints(tmp_path / "parts") == [3]
    resumed, later = build_recording(tmp_path / "parts", **epochs)
    resumed.train(resume_from_checkpoint=True)
    assert commit.examples + later.examples == expected.examples
    assert_same_end(resumed, whole)
    assert checkpoints(tmp_path / "parts") == checkpoints(tmp_path / "whole") == [3, 6, 9]


def test_an_exception_of_the_model_itself_loses_no_batch_either(tmp_path, recorded):
    whole, expected = recorded
    trainer, commit = build_recording(tmp_path)
    calls = []

    def fail_at_the_sixth(module, arguments):
        calls.append(1)
        if len(calls) == 6:
            raise FloatingPointError("of the model")

    trainer.model.register_forward_pre_hook(fail_at_the_sixth)
    with pytest.raises(FloatingPointError):
        trainer.train()
    assert checkpoints(tmp_path) == [1]
    resumed, later = build_recording(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert commit.examples + later.examples == expected.examples
    assert_same_end(resumed, whole)


def test_no_checkpoint_is_made_at_an_exception_unless_asked_for(tmp_path):
    trainer, _ = build_recording(tmp_path, AtStep(2, fail), save_on_exception=False)
    with pytest.raises(ValueError, match="of a callback"):
        trainer.train()
    assert checkpoints(tmp_path) == []


def test_no_checkpoint_is_made_before_the_first_finished_step(tmp_path):
    trainer, _ = build_recording(tmp_path, FailAt("on_substep_end", 1, ValueError("of a callback")))
    with pytest.raises(ValueError, match="of a callback"):
        trainer.train()
    assert checkpoints(tmp_path) == []


def test_an_exception_while_the_weights_change_leaves_no_checkpoint_and_says_so(tmp_path, caplog):
    trainer, _ = build_recording(tmp_path, AtStep(2, fail, event="on_optimizer_step"))
    with pytest.raises(ValueError, match="of a callback"):
        trainer.train()
    assert checkpoints(tmp_path) == []
    assert "the exception came while the weights were changing" in caplog.text


def test_a_step_that_is_saved_already_is_not_saved_at_an_exception(tmp_path, gate):
    trainer, _ = build_recording(tmp_path, AtStep(2, save), AtStep(2, fail, event="on_step_begin"))
    with pytest.raises(ValueError, match="of a callback"):
        trainer.train()
    assert gate.begun == checkpoints(tmp_path) == [2]


def test_ctrl_c_within_a_save_saves_that_step_at_the_exception(tmp_path, monkeypatch, recorded):
    whole, expected = recorded
    write, calls = saving.write_checkpoint, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return write(*arguments)

    monkeypatch.setattr(saving, "write_checkpoint", interrupted)
    trainer, commit = build_recording(tmp_path, AtStep(2, save))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert checkpoints(tmp_path) == [2]
    resumed, later = build_recording(tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert commit.examples + later.examples == expected.examples
    assert_same_end(resumed, whole)


def test_a_full_disk_at_an_exception_hides_nothing_of_it(tmp_path, disk, caplog):
    trainer, _ = build_recording(tmp_path, AtStep(2, disk.fill), AtStep(2, fail), optim="sgd")
    trainer.model.register_buffer("ballast", torch.zeros(500_000))
    with pytest.raises(ValueError, match="of a callback"):
        trainer.train()
    assert checkpoints(tmp_path) == []
    assert "no checkpoint after ValueError" in caplog.text


def test_the_journal_is_on_the_disk_before_the_checkpoint_and_the_loop_waits_for_neither(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync_file", _noting(synced, tmp_path, files.sync_file))
    trainer = build(tmp_path, **BESIDE, callbacks=(AtStep(3, save),))
    trainer.train()
    beside = [(thread, checkpoints) for thread, name, checkpoints in synced if name == "journal.db-wal"]
    assert beside[0] == ("loopwright-save_0", [])
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-7"]


def _noting(synced, directory, sync_file):
    def note(path):
        checkpoints = [found.name for found in list_checkpoints(directory)]
        synced.append((threading.current_thread().name, Path(path).name, checkpoints))
        sync_file(path)

    return note
