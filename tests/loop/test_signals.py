"""A signal that asks the process to end: where the training stops, what it saves, and that it goes on exactly."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from loopwright import TrainerCallback
from loopwright.checkpoint import find_damage, list_checkpoints, load_loopwright_state, load_update
from loopwright.data.collate import default_data_collator
from loopwright.errors import Preempted
from loopwright.journal.reader import JournalReader
from loopwright.records import Status
from tests.forked import work_and_exit
from tests.loop.test_resume import Network, Noisy, build, steady

WATCHED = (signal.SIGTERM, signal.SIGUSR1)
EXIT_CODE = 128 + signal.SIGTERM


class On(TrainerCallback):
    """Does `act` the `at`-th time that `event` comes."""

    def __init__(self, event, act, at=1):
        self.calls = 0

        def listen(args, state, control, **kwargs):
            self.calls += 1
            if self.calls == at:
                act()

        setattr(self, event, listen)


class Witness(TrainerCallback):
    """Notes which of the rarer events came, and what came with them."""

    def __init__(self):
        self.saved, self.exceptions, self.train_ends = [], [], 0

    def on_save(self, args, state, control, **kwargs):
        self.saved.append(state.global_step)

    def on_exception(self, args, state, control, exception=None, **kwargs):
        self.exceptions.append(exception)

    def on_train_end(self, args, state, control, **kwargs):
        self.train_ends += 1


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def heard():
    """The program's own handlers, by which a signal that nobody else takes doesn't end the tests either."""
    numbers = []
    before = {number: signal.signal(number, lambda number, frame: numbers.append(number)) for number in WATCHED}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def train_preempted(trainer, **options):
    with pytest.raises(Preempted) as caught:
        trainer.train(**options)
    return caught.value


def last_attempt(directory):
    with JournalReader(directory) as reader:
        return reader.attempts()[-1]


def assert_same_end(resumed, whole):
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert steady(resumed.state.log_history) == steady(whole.state.log_history)
    assert resumed.state.global_step == whole.state.global_step


def resume(directory, whole, make=build, **options):
    """Go on in `directory` with random streams somewhere else, and compare the end with that of `whole`."""
    trainer = make(directory, **options)
    torch.randn(17)
    trainer.train(resume_from_checkpoint=True)
    assert_same_end(trainer, whole)
    return trainer


# Inside an update

ACCUMULATION = {"gradient_accumulation_steps": 3, "save_steps": 100}


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory):
    """A training of groups of 3, 3 and 1 micro-batches an epoch that nothing interrupted."""
    whole = build(tmp_path_factory.mktemp("accumulated"), **ACCUMULATION)
    whole.train()
    return whole


@pytest.mark.parametrize(
    ("number", "substep", "step", "position", "done"),
    [
        (signal.SIGTERM, 1, 0, (0, 1), 1),
        (signal.SIGTERM, 4, 1, (0, 5), 2),
        (signal.SIGUSR1, 5, 3, (1, 1), 1),
    ],
)
def test_a_signal_inside_an_update_saves_the_micro_batches_done_so_far(
    number, substep, step, position, done, tmp_path, accumulated, heard
):
    witness = Witness()
    stop = On("on_substep_end", lambda: send(number), at=substep)
    trainer = build(tmp_path, callbacks=(stop, witness), **ACCUMULATION)
    ended = train_preempted(trainer)
    assert isinstance(ended, SystemExit)
    assert ended.code == 128 + number
    assert stop.calls == substep, "training went on"
    (checkpoint,) = list_checkpoints(tmp_path)
    assert checkpoint.name == f"checkpoint-{step}"
    assert find_damage(checkpoint) == []
    at = load_loopwright_state(checkpoint)["loop"]["position"]
    assert (at["epoch"], at["batches"]) == position
    update = load_update(checkpoint)
    assert update["done"] == done
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(update["gradients"][name], parameter.grad)
    assert any(gradient.any() for gradient in update["gradients"].values())
    assert witness.saved == [step]
    assert witness.exceptions == [ended]
    assert witness.train_ends == 0
    attempt = last_attempt(tmp_path)
    assert (attempt.status, attempt.reason) == (Status.PREEMPTED, f"{number.name} at step {step}")
    assert heard == [number]
    resume(tmp_path, accumulated, **ACCUMULATION)
    assert last_attempt(tmp_path).status is Status.COMPLETED


def test_a_training_signalled_again_and_again_goes_on_exactly(tmp_path, accumulated):
    train_preempted(build(tmp_path, callbacks=(On("on_substep_end", send, at=3),), **ACCUMULATION))
    for event, at in (("on_substep_end", 1), ("on_step_begin", 2), ("on_pre_optimizer_step", 1), ("on_epoch_end", 1)):
        trainer = build(tmp_path, callbacks=(On(event, send, at=at),), **ACCUMULATION)
        train_preempted(trainer, resume_from_checkpoint=True)
    resume(tmp_path, accumulated, **ACCUMULATION)


class Opaque:
    """Something that can be moved to a device and can't be saved."""

    def to(self, *args, **kwargs):
        return self


class TakesOpaque(Network):
    def forward(self, x, labels=None, thing=None):
        assert isinstance(thing, Opaque)
        return super().forward(x, labels)


def build_with_opaque(directory, **options):
    trainer = build(directory, **options)
    trainer.model.__class__ = TakesOpaque  # a new one would draw from the random streams
    trainer.args.remove_unused_columns = False
    trainer.data_collator = lambda examples: {**default_data_collator(examples), "thing": Opaque()}
    return trainer


def test_an_update_whose_batches_cannot_be_saved_is_finished_first(tmp_path, accumulated):
    stop = On("on_substep_end", send, at=3)
    train_preempted(build_with_opaque(tmp_path, callbacks=(stop,), **ACCUMULATION))
    assert stop.calls == 4
    (checkpoint,) = list_checkpoints(tmp_path)
    assert checkpoint.name == "checkpoint-2"
    assert load_update(checkpoint) is None
    assert load_loopwright_state(checkpoint)["loop"]["position"]["batches"] == 6
    resume(tmp_path, accumulated, make=build_with_opaque, **ACCUMULATION)


# What `signal_action` says


def test_return_lets_train_return_without_a_closing_line(tmp_path, accumulated):
    witness = Witness()
    stop = On("on_substep_end", send, at=4)
    trainer = build(tmp_path, callbacks=(stop, witness), signal_action="return", **ACCUMULATION)
    output = trainer.train()
    assert output.global_step == 1
    assert witness.train_ends == 1
    assert witness.exceptions == []
    assert witness.saved == [1]
    assert not any("train_runtime" in line for line in trainer.state.log_history)
    assert "train_runtime" not in output.metrics
    attempt = last_attempt(tmp_path)
    assert (attempt.status, attempt.reason) == (Status.PREEMPTED, "SIGTERM at step 1")
    resume(tmp_path, accumulated, signal_action="return", **ACCUMULATION)


def test_off_leaves_every_handler_alone(tmp_path, heard):
    handlers = []
    watch = On("on_step_begin", lambda: handlers.extend(map(signal.getsignal, WATCHED)))
    own = [signal.getsignal(number) for number in WATCHED]
    trainer = build(tmp_path, callbacks=(watch, On("on_step_end", send)), signal_action="off", max_steps=3)
    trainer.train()
    assert handlers == own
    assert heard == [signal.SIGTERM]
    assert trainer.state.global_step == 3
    assert last_attempt(tmp_path).status is Status.COMPLETED


# Handlers


def _raise(error):
    raise error


@pytest.mark.parametrize("error", [None, ValueError("of a callback"), KeyboardInterrupt()])
def test_the_programs_handlers_are_back_after_training_however_it_ends(error, tmp_path):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    before = [signal.getsignal(number) for number in WATCHED]
    inside = []
    watch = On("on_step_begin", lambda: inside.extend(map(signal.getsignal, WATCHED)))
    callbacks = (watch,) if error is None else (watch, On("on_step_end", lambda: _raise(error)))
    with pytest.raises(type(error)) if error is not None else contextlib.nullcontext():
        build(tmp_path, callbacks=callbacks, max_steps=2).train()
    assert [signal.getsignal(number) for number in WATCHED] == before
    assert len(inside) == 2
    assert all(handler not in before for handler in inside)


def test_the_programs_handlers_are_back_after_a_signal(tmp_path, heard):
    before = [signal.getsignal(number) for number in WATCHED]
    train_preempted(build(tmp_path, callbacks=(On("on_step_end", send),)))
    assert [signal.getsignal(number) for number in WATCHED] == before
    assert heard == [signal.SIGTERM]


def test_an_ignored_signal_stays_ignored(tmp_path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    trainer = build(tmp_path, callbacks=(On("on_step_end", send),), max_steps=3)
    trainer.train()
    assert trainer.state.global_step == 3
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_a_handler_that_a_callback_installs_stays(tmp_path, heard):
    taken = []

    def handler(number, frame):
        taken.append(number)

    callbacks = (On("on_step_begin", lambda: signal.signal(signal.SIGTERM, handler)), On("on_step_end", send))
    trainer = build(tmp_path, callbacks=callbacks, max_steps=3)
    trainer.train()
    assert signal.getsignal(signal.SIGTERM) is handler
    assert taken == [signal.SIGTERM]
    assert heard == []
    assert trainer.state.global_step == 3


def test_off_the_main_thread_training_works_and_says_once_that_signals_are_not_watched(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("loopwright._support.log._said", set())
    own = [signal.getsignal(number) for number in WATCHED]
    trainers = [build(tmp_path / str(number), max_steps=2) for number in range(2)]
    seen = []
    for trainer in trainers:
        trainer.add_callback(On("on_step_begin", lambda: seen.append([signal.getsignal(one) for one in WATCHED])))
        thread = threading.Thread(target=trainer.train)
        thread.start()
        thread.join()
    assert [trainer.state.global_step for trainer in trainers] == [2, 2]
    assert seen == [own, own]
    assert caplog.text.count("training off the main thread") == 1


# Ctrl-C


@pytest.mark.parametrize("event", ["on_substep_end", "on_optimizer_step", "on_prediction_step", "on_log"])
def test_ctrl_c_reaches_every_callback_and_goes_on_as_ctrl_c(event, tmp_path):
    first, last = Witness(), Witness()
    callbacks = (first, On(event, lambda: send(signal.SIGINT)), last)
    trainer = build(tmp_path, callbacks=callbacks, eval_strategy="steps", eval_steps=2, gradient_accumulation_steps=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.train()
    assert first.exceptions == last.exceptions == [caught.value]
    attempt = last_attempt(tmp_path)
    assert attempt.status is Status.INTERRUPTED
    assert attempt.reason.startswith("KeyboardInterrupt")


# Evaluations

EVALUATION = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 100, "per_device_eval_batch_size": 1}
LAST_EVALUATION = 10  # at steps 2, 4, ..., 20; then at the last step, 21


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    whole = build(tmp_path_factory.mktemp("evaluated"), **EVALUATION)
    whole.train()
    return whole


@pytest.mark.parametrize(("evaluation", "step"), [(0, 2), (2, 6), (LAST_EVALUATION, 21)])
def test_an_evaluation_that_a_signal_interrupts_is_given_up_and_done_anew(evaluation, step, tmp_path, evaluated):
    stop = On("on_prediction_step", send, at=4 * evaluation + 3)  # the third of four batches
    trainer = build(tmp_path, callbacks=(stop,), **EVALUATION)
    train_preempted(trainer)
    assert stop.calls == 4 * evaluation + 3
    assert sum("eval_loss" in line for line in trainer.state.log_history) == evaluation
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{step}"]
    resume(tmp_path, evaluated, **EVALUATION)


def test_an_evaluation_at_an_epochs_end_is_given_up_and_done_anew(tmp_path):
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "per_device_eval_batch_size": 1}
    whole = build(tmp_path / "whole", **options)
    whole.train()
    stop = On("on_prediction_step", send, at=6)
    train_preempted(build(tmp_path / "parts", callbacks=(stop,), **options))
    assert stop.calls == 6
    resume(tmp_path / "parts", whole, **options)
    assert [path.name for path in list_checkpoints(tmp_path / "parts")] == [
        "checkpoint-7",
        "checkpoint-14",
        "checkpoint-21",
    ]


def build_with_two_evaluations(directory, **options):
    trainer = build(directory, **options)
    trainer.eval_dataset = {"a": Noisy(4), "b": Noisy(4)}
    return trainer


@pytest.mark.parametrize(("batch", "lines"), [(2, 0), (6, 2)])
def test_of_two_evaluations_the_second_goes_on_to_its_end_once_the_first_is_logged(batch, lines, tmp_path):
    whole = build_with_two_evaluations(tmp_path / "whole", **EVALUATION)
    whole.train()
    stop = On("on_prediction_step", send, at=batch)
    trainer = build_with_two_evaluations(tmp_path / "parts", callbacks=(stop,), **EVALUATION)
    train_preempted(trainer)
    assert stop.calls == (batch if lines == 0 else 8)
    assert sum("eval_a_loss" in line or "eval_b_loss" in line for line in trainer.state.log_history) == lines
    assert trainer.state.global_step == 2
    resume(tmp_path / "parts", whole, make=build_with_two_evaluations, **EVALUATION)


class EndsProcesses(Noisy):
    """Does what a signal to the whole process group does: the training gets it, and the worker dies of it."""

    def __getitem__(self, index):
        os.kill(os.getppid(), signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


def test_workers_that_a_signal_ends_in_an_evaluation_half_logged_leave_the_checkpoints_there_are(tmp_path):
    options = {**EVALUATION, "save_steps": 1, "dataloader_num_workers": 1, "max_steps": 4}
    whole = build_with_two_evaluations(tmp_path / "whole", **options)
    whole.train()
    trainer = build_with_two_evaluations(tmp_path / "parts", **options)
    trainer.eval_dataset["b"] = EndsProcesses(4)
    assert train_preempted(trainer).code == EXIT_CODE
    assert last_attempt(tmp_path / "parts").status is Status.PREEMPTED
    assert [path.name for path in list_checkpoints(tmp_path / "parts")] == ["checkpoint-1"]
    resume(tmp_path / "parts", whole, make=build_with_two_evaluations, **options)


def test_an_evaluation_that_a_callback_makes_itself_is_not_given_up(tmp_path):
    lines = []
    trainer = build(tmp_path, max_steps=3, per_device_eval_batch_size=1, callbacks=(On("on_prediction_step", send),))
    trainer.add_callback(On("on_step_end", lambda: lines.append(trainer.evaluate())))
    train_preempted(trainer)
    assert len(lines) == 1
    assert "eval_loss" in lines[0]
    assert trainer.state.global_step == 1


# Nothing to save


@pytest.mark.parametrize("action", ["exit", "return"])
def test_a_signal_before_the_first_step_leaves_no_checkpoint(action, tmp_path):
    witness = Witness()
    trainer = build(tmp_path, callbacks=(On("on_train_begin", send), witness), signal_action=action)
    if action == "exit":
        assert train_preempted(trainer).code == EXIT_CODE
    else:
        assert trainer.train().global_step == 0
    assert list_checkpoints(tmp_path) == []
    assert witness.saved == []
    attempt = last_attempt(tmp_path)
    assert (attempt.status, attempt.reason) == (Status.PREEMPTED, "SIGTERM at step 0")


def test_a_signal_in_the_evaluation_before_the_first_step_leaves_no_checkpoint(tmp_path):
    stop = On("on_prediction_step", send)
    train_preempted(build(tmp_path, callbacks=(stop,), eval_on_start=True, **EVALUATION))
    assert stop.calls == 1
    assert list_checkpoints(tmp_path) == []


@pytest.mark.parametrize("save_async", [False, True])
def test_a_signal_right_after_a_save_saves_no_second_time(save_async, tmp_path):
    witness = Witness()
    trainer = build(tmp_path, callbacks=(witness, On("on_save", send)), save_steps=4, save_async=save_async)
    train_preempted(trainer)
    step = trainer.state.global_step
    assert witness.saved == ([4] if step == 4 else [4, step])
    assert save_async or step == 4


def test_a_resumed_training_that_is_signalled_at_once_saves_no_second_time(tmp_path):
    train_preempted(build(tmp_path, callbacks=(On("on_step_end", send, at=2),), save_steps=100))
    witness = Witness()
    again = build(tmp_path, callbacks=(witness, On("on_train_begin", send)), save_steps=100)
    train_preempted(again, resume_from_checkpoint=True)
    assert witness.saved == []
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2"]


@pytest.mark.parametrize(("event", "at"), [("on_step_end", 3), ("on_train_end", 1)])
@pytest.mark.parametrize("action", ["exit", "return"])
def test_a_signal_after_the_last_step_lets_the_training_complete_first(event, at, action, tmp_path):
    witness = Witness()
    callbacks = (witness, On(event, send, at=at))
    trainer = build(tmp_path, callbacks=callbacks, max_steps=3, save_steps=3, signal_action=action)
    if action == "exit":
        assert train_preempted(trainer).code == EXIT_CODE
    else:
        assert trainer.train().global_step == 3
    assert "train_runtime" in trainer.state.log_history[-1]
    assert witness.train_ends == 1
    assert witness.saved == [3]
    assert last_attempt(tmp_path).status is Status.COMPLETED


def test_a_signal_while_trackers_are_drained_leaves_after_them(tmp_path, monkeypatch):
    trainer = build(tmp_path, max_steps=3)
    drain = trainer.reporting._drain

    def signalled():
        send()
        drain()

    monkeypatch.setattr(trainer.reporting, "_drain", signalled)
    assert train_preempted(trainer).code == EXIT_CODE
    assert last_attempt(tmp_path).status is Status.COMPLETED


# In processes of their own

SERVER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import torch, torch._dynamo
torch.set_num_threads(1)
import loopwright.integrations
from tests.loop import test_signals
for line in sys.stdin:
    name, directory = json.loads(line)
    child = os.fork()
    if child == 0:
        test_signals.become(name, directory)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def become(name, directory):
    """In a process just forked: do what the function `name` does, and exit as Python would."""
    work_and_exit(lambda: globals()[name](Path(directory)), Path(directory) / "log.txt")


class Process:
    def __init__(self, server, directory):
        self.server, self.directory = server, directory
        self.pid = int(server.stdout.readline())

    def wait_for(self, name):
        until = time.monotonic() + 60
        while not (self.directory / name).exists():
            assert time.monotonic() < until, self.log()
            time.sleep(0.002)

    def wait(self):
        return int(self.server.stdout.readline())

    def log(self):
        return (self.directory / "log.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def server():
    command = [sys.executable, "-c", SERVER, str(Path(__file__).parents[2])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield process
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()


@pytest.fixture
def run(server, tmp_path):
    def begin(name, directory=tmp_path):
        directory.mkdir(exist_ok=True)
        server.stdin.write(json.dumps([name, str(directory)]) + "\n")
        server.stdin.flush()
        return Process(server, directory)

    return begin


def save_slowly(directory):
    from loopwright.loop import saving

    write = saving.write_checkpoint

    def slow(*arguments):
        (directory / "saving").touch()
        time.sleep(30)
        return write(*arguments)

    saving.write_checkpoint = slow
    build(directory / "out", save_steps=100, callbacks=(On("on_step_end", send),)).train()


def test_a_second_signal_ends_the_process_at_once_while_a_save_is_slow(run):
    process = run("save_slowly")
    process.wait_for("saving")
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM, process.log()
    assert time.monotonic() - began < 15  # the save takes 30
    assert list_checkpoints(process.directory / "out") == []


def fork_in_training(directory):
    """Children forked within training: by os.fork, and by a pool that ends them by SIGTERM."""
    found = {}

    def fork():
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            names = [getattr(signal.getsignal(number), "__name__", str(signal.getsignal(number))) for number in WATCHED]
            os.write(writer, json.dumps(names).encode())
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
            os._exit(0)
        found["handlers"] = json.loads(os.read(reader, 1000))
        found["exit"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        began = time.monotonic()
        pool = multiprocessing.get_context("fork").Pool(2)
        found["pool"] = pool.map(abs, [-1, -2, -3])
        pool.terminate()
        pool.join()
        found["seconds"] = time.monotonic() - began

    signal.signal(signal.SIGUSR1, of_the_program)
    trainer = build(directory / "out", max_steps=3, callbacks=(On("on_step_end", fork),))
    trainer.train()
    found["step"] = trainer.state.global_step
    (directory / "found.json").write_text(json.dumps(found))


def of_the_program(number, frame):
    pass


def test_children_forked_in_training_have_the_programs_handlers(run):
    process = run("fork_in_training")
    assert process.wait() == 0, process.log()
    found = json.loads((process.directory / "found.json").read_text())
    assert found["handlers"] == [str(signal.SIG_DFL), "of_the_program"]
    assert found["exit"] == -signal.SIGTERM
    assert found["pool"] == [1, 2, 3]
    assert found["seconds"] < 10
    assert found["step"] == 3


class Sleeping(Noisy):
    """Whose later batches take long."""

    directory = None

    def __init__(self, directory=None):
        super().__init__()
        self.directory = directory

    def __getitem__(self, index):
        if (self.directory / "trained").exists():
            (self.directory / "waiting").touch()
            time.sleep(6)
        return super().__getitem__(index)


def wait_for_workers(directory):
    trainer = build(
        directory / "out",
        data=lambda: Sleeping(directory),
        dataloader_num_workers=1,
        dataloader_prefetch_factor=1,
        save_steps=100,
        callbacks=(On("on_step_end", (directory / "trained").touch),),
    )
    trainer.train()


def test_a_signal_is_seen_to_while_workers_are_waited_for(run):
    process = run("wait_for_workers")
    process.wait_for("waiting")
    time.sleep(0.3)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == EXIT_CODE, process.log()
    assert time.monotonic() - began < 8  # a batch takes 12
    assert len(list_checkpoints(process.directory / "out")) == 1


class SlowInWorkers(Dataset):
    def __len__(self):
        return 14

    def __getitem__(self, index):
        time.sleep(0.01)
        x = torch.randn(3)
        return {"x": x, "labels": x.sum() + index}


def build_with_workers(directory, **options):
    return build(
        directory / "out",
        data=SlowInWorkers,
        dataloader_num_workers=2,
        gradient_accumulation_steps=2,
        save_steps=3,
        eval_strategy="steps",
        eval_steps=4,
        per_device_eval_batch_size=1,
        **options,
    )


def train_with_workers(directory):
    trainer = build_with_workers(directory, callbacks=(On("on_train_begin", (directory / "began").touch),))
    trainer.train(resume_from_checkpoint="auto")
    outcome = {"weights": trainer.model.state_dict(), "history": steady(trainer.state.log_history)}
    torch.save(outcome, directory / "outcome.pt")


def test_signals_to_the_whole_process_group_end_in_order_and_go_on_exactly(run, tmp_path):
    process = run("train_with_workers", tmp_path / "whole")
    process.wait_for("began")
    began = time.monotonic()
    assert process.wait() == 0, process.log()
    seconds = time.monotonic() - began
    whole = torch.load(tmp_path / "whole" / "outcome.pt", weights_only=True)
    dice = random.Random(0)
    hits = 0
    for number in range(3):
        directory = tmp_path / str(number)
        for _ in range(2):
            process = run("train_with_workers", directory)
            process.wait_for("began")
            time.sleep(dice.uniform(0, 0.7 * seconds))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            status = process.wait()
            assert status in (0, EXIT_CODE, -signal.SIGTERM), process.log()
            if status == -signal.SIGTERM:  # it came after the training, and nobody's handlers took it
                assert last_attempt(directory / "out").status is Status.COMPLETED, process.log()
            hits += status == EXIT_CODE
            (directory / "began").unlink()
        process = run("train_with_workers", directory)
        assert process.wait() == 0, process.log()
        assert "Traceback" not in process.log()
        outcome = torch.load(directory / "outcome.pt", weights_only=True)
        assert outcome["history"] == whole["history"]
        for name, value in whole["weights"].items():
            assert torch.equal(outcome["weights"][name], value), name
    assert hits >= 3
