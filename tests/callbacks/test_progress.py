"""The progress bar in real terminals, pipes and notebooks, also in those that go away in the middle of a run."""

from __future__ import annotations

import copy
import io
import logging
import os
import pickle
import pty
import re
import subprocess
import sys
import termios
import textwrap
from types import SimpleNamespace

import nbclient
import nbformat
import pexpect
import pytest
import transformers

from loopwright.callbacks.progress import ProgressCallback
from loopwright.state import TrainerControl, TrainerState

CONTROL = TrainerControl()

# A run without a model: what the Trainer tells the callback, in the Trainer's order.
RUN = """
import sys
from loopwright.callbacks.progress import ProgressCallback
from loopwright.state import TrainerControl, TrainerState

def run(callback, steps=20, every=5, line="x", wait=lambda: None, rank_zero=True):
    state = TrainerState(max_steps=steps, is_world_process_zero=rank_zero)
    callback.on_train_begin(None, state, TrainerControl())
    for step in range(1, steps + 1):
        state.global_step = step
        callback.on_step_end(None, state, TrainerControl())
        if step % every == 0:
            callback.on_log(None, state, TrainerControl(), logs={"loss": 0.123456, "step": step, "line": line})
            for _ in range(3):
                callback.on_prediction_step(None, state, TrainerControl(), eval_dataloader=[0, 0, 0])
            callback.on_evaluate(None, state, TrainerControl(), metrics={})
        wait()
    callback.on_train_end(None, state, TrainerControl())
"""


def program(tmp_path, body):
    file = tmp_path / "program.py"
    file.write_text(RUN + textwrap.dedent(body))
    return str(file)


@pytest.fixture
def open_terminal(monkeypatch):
    """A function that puts two streams, which can be made to fail, in the place of stdout and stderr.

    To be called in the test itself: pytest puts streams of its own there between set-up and test.
    """

    def open_streams():
        out, err = Stream(), Stream()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        return SimpleNamespace(out=out, err=err)

    return open_streams


class Stream(io.StringIO):
    encoding = "utf-8"
    error = None

    def write(self, text):
        if self.error is not None:
            raise self.error
        return super().write(text)

    def flush(self):
        if self.error is not None:
            raise self.error


def begin(steps=10, done=0, **options):
    callback = ProgressCallback(**options)
    state = TrainerState(max_steps=steps, global_step=done)
    callback.on_train_begin(None, state, CONTROL)
    return callback, state


def step(callback, state, count=1):
    for _ in range(count):
        state.global_step += 1
        callback.on_step_end(None, state, CONTROL)


# Terminals


def test_a_terminal_shows_the_bar_up_to_100_percent_with_log_lines_above_it(tmp_path):
    child = pexpect.spawn(sys.executable, [program(tmp_path, "run(ProgressCallback())")], encoding="utf-8", timeout=60)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert "  0%|" in child.before
    assert re.search(r"100%\|█+\| 20/20 ", child.before)
    assert "\r\n{'loss': '0.1235', 'step': 5, 'line': 'x'}" in child.before.replace("\r\r", "\r") or (
        "{'loss': '0.1235', 'step': 5, 'line': 'x'}\r\n" in child.before
    )
    assert child.before.endswith("\r\n")


def test_a_terminal_that_closes_in_mid_run_does_not_stop_the_run(tmp_path):
    body = f"""
        import logging, time
        logging.basicConfig(filename={str(tmp_path / "log")!r})
        print("begun", flush=True)
        callback = ProgressCallback()
        run(callback, steps=40, every=10, wait=lambda: time.sleep(0.05))
        open({str(tmp_path / "done")!r}, "w").write(str(callback.training_bar))
    """
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 80))
    with subprocess.Popen([sys.executable, program(tmp_path, body)], stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        seen = b""
        while b"begun" not in seen or b"0/40" not in seen:
            seen += os.read(ours, 1024)
        os.close(ours)
        child.wait(timeout=60)
    assert (tmp_path / "done").read_text() == "None"
    assert (tmp_path / "log").read_text().count("The terminal has gone away") == 1


def test_a_pipe_that_breaks_does_not_stop_the_run(tmp_path):
    body = f"""
        import logging
        logging.basicConfig(filename={str(tmp_path / "log")!r})
        run(ProgressCallback(), steps=400, every=1, line="y" * 4000)
        open({str(tmp_path / "done")!r}, "w").close()
    """
    shell = f"{sys.executable} -u {program(tmp_path, body)} 2>&1 | head -1"
    first = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=60, check=False)
    assert b"0/400" in first.stdout
    assert (tmp_path / "done").exists()
    assert (tmp_path / "log").read_text().count("The terminal has gone away") == 1


def test_a_trainer_outlives_its_pipe_with_bar_and_with_printer(tmp_path):
    body = f"""
        import torch
        from torch import nn
        from loopwright import Trainer, TrainingArguments

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(1, 1)

            def forward(self, x):
                return {{"loss": self.linear(x).square().mean()}}

        torch.set_num_threads(1)
        data = [{{"x": torch.ones(1)}}] * 8
        for disable_tqdm in (False, True):
            args = TrainingArguments(
                {str(tmp_path)!r}, max_steps=30, logging_steps=1, use_cpu=True, report_to="none",
                eval_strategy="steps", eval_steps=10, save_strategy="no", disable_tqdm=disable_tqdm,
            )
            trainer = Trainer(Model(), args, train_dataset=data, eval_dataset=data)
            with open({str(tmp_path / "steps")!r}, "a") as file:
                file.write(f"{{trainer.train().global_step}} ")
    """
    shell = f"{sys.executable} -u {program(tmp_path, body)} 2>&1 | head -1"
    subprocess.run(["bash", "-c", shell], capture_output=True, timeout=120, check=False)
    assert (tmp_path / "steps").read_text() == "30 30 "


def test_a_program_without_a_console_runs(tmp_path):
    # Python sets sys.stdout and sys.stderr to None where the descriptors are closed, as pythonw has them.
    body = f"""
        assert sys.stdout is None and sys.stderr is None
        run(ProgressCallback())
        open({str(tmp_path / "done")!r}, "w").close()
    """
    shell = f"{sys.executable} {program(tmp_path, body)} >&- 2>&-"
    assert subprocess.run(["bash", "-c", shell], timeout=60, check=False).returncode == 0
    assert (tmp_path / "done").exists()


def test_a_terminal_of_ascii_shows_what_it_can(tmp_path):
    file = program(tmp_path, "run(ProgressCallback(), line='größe')")
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, file], env=env, capture_output=True, timeout=60, check=True)
    assert done.stdout.count(rb"gr\xf6\xdfe") == 4
    assert b"20/20" in done.stderr


# Streams that fail at any call


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(5, "Input/output error"), ValueError("I/O on closed file")]
)
@pytest.mark.parametrize("broken", ["out", "err"])
@pytest.mark.parametrize("moment", ["begin", "step", "log", "open", "evaluate", "end", "exception"])
def test_no_call_raises_when_the_terminal_has_gone(error, broken, moment, open_terminal, caplog):
    terminal = open_terminal()
    callback, state = ProgressCallback(), TrainerState(max_steps=10)

    def breaks(now):
        if now == moment:
            getattr(terminal, broken).error = error
        if callback.training_bar is not None:
            callback.training_bar.last_print_t = 0.0  # due for drawing now

    breaks("begin")
    callback.on_train_begin(None, state, CONTROL)
    breaks("step")
    step(callback, state)
    breaks("log")
    callback.on_log(None, state, CONTROL, logs={"loss": 1.0})
    breaks("open")
    callback.on_prediction_step(None, state, CONTROL, eval_dataloader=[1, 2])
    breaks("evaluate")
    callback.on_evaluate(None, state, CONTROL)
    breaks("exception" if moment == "exception" else "end")
    getattr(callback, "on_exception" if moment == "exception" else "on_train_end")(None, state, CONTROL)
    assert callback.training_bar is None
    assert callback.prediction_bar is None
    assert len(caplog.records) <= 1


def test_it_stays_silent_after_the_first_failure_until_the_next_training(open_terminal, caplog):
    terminal = open_terminal()
    callback, state = begin()
    terminal.out.error = BrokenPipeError(32, "Broken pipe")
    callback.on_log(None, state, CONTROL, logs={"loss": 1.0})
    terminal.out.error = None
    assert terminal.err.getvalue().endswith("\n")
    before = terminal.err.getvalue()
    step(callback, state, 5)
    callback.on_prediction_step(None, state, CONTROL, eval_dataloader=[1, 2])
    callback.on_log(None, state, CONTROL, logs={"loss": 1.0})
    callback.on_train_end(None, state, CONTROL)
    assert (terminal.out.getvalue().strip(), terminal.err.getvalue()) == ("", before)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    callback.on_train_begin(None, TrainerState(max_steps=3), CONTROL)
    assert callback.training_bar is not None
    callback.on_train_end(None, state, CONTROL)


def test_a_bar_that_tqdm_gave_up_is_given_up_with_a_word(open_terminal, caplog):
    terminal = open_terminal()
    callback, state = begin()
    terminal.err.error = OSError(5, "Input/output error")  # tqdm swallows this one
    callback.training_bar.last_print_t = 0.0
    step(callback, state)
    assert callback.training_bar is not None
    callback.on_log(None, state, CONTROL, logs={"loss": 1.0})
    callback.on_log(None, state, CONTROL, logs={"loss": 1.0})
    assert callback.training_bar is None
    assert caplog.text.count("The terminal has gone away") == 1


def test_a_log_that_goes_to_the_same_dead_terminal_does_not_raise(open_terminal):
    terminal = open_terminal()
    handler = logging.StreamHandler(terminal.err)
    logger = logging.getLogger("loopwright")
    logger.addHandler(handler)
    try:
        callback, state = begin()
        terminal.err.error = terminal.out.error = ValueError("I/O operation on closed file")
        callback.on_log(None, state, CONTROL, logs={"loss": 1.0})
    finally:
        logger.removeHandler(handler)
    assert callback.training_bar is None


# What is shown


def test_the_bar_starts_where_the_training_does(open_terminal):
    terminal = open_terminal()
    callback, state = begin(steps=10, done=4)
    assert (callback.training_bar.n, callback.training_bar.initial, callback.training_bar.total) == (4, 4, 10)
    step(callback, state, 6)
    callback.on_train_end(None, state, CONTROL)
    assert " 40%|" in terminal.err.getvalue()
    assert "10/10" in terminal.err.getvalue()


def test_the_bar_follows_a_step_number_that_jumps(open_terminal):
    open_terminal()
    callback, state = begin(steps=10)
    state.global_step = 7
    callback.on_step_end(None, state, CONTROL)
    assert callback.training_bar.n == 7
    callback.on_train_end(None, state, CONTROL)


def test_log_lines_look_as_those_of_transformers(capsys):
    logs = {"loss": 0.123456, "learning_rate": 1e-5, "note": "short", "epoch": 1.0, "count": 3, "total_flos": 1.0}
    lines = []
    for kind in (ProgressCallback, transformers.trainer_callback.ProgressCallback):
        callback, state = kind(), TrainerState(max_steps=10)
        callback.on_train_begin(None, state, CONTROL)
        callback.on_log(None, state, CONTROL, logs=dict(logs))
        callback.on_train_end(None, state, CONTROL)
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]
    assert "'loss': '0.1235'" in lines[0]
    assert "total_flos" not in lines[0]


@pytest.mark.parametrize(("length", "is_cut"), [(10, False), (11, True)])
def test_a_string_longer_than_max_str_len_is_cut_and_says_so(length, is_cut, open_terminal):
    terminal = open_terminal()
    callback, state = begin(max_str_len=10)
    logs = {"text": "x" * length}
    callback.on_log(None, state, CONTROL, logs=logs)
    callback.on_train_end(None, state, CONTROL)
    assert ("max_str_len=10" in terminal.out.getvalue()) == is_cut
    assert terminal.out.getvalue().count("x" * 10) == 1
    assert logs == {"text": "x" * length}


def test_the_evaluation_bar_exists_only_while_evaluating_something_with_a_length(open_terminal):
    open_terminal()
    callback, state = begin()
    for endless in (None, iter([1]), object()):
        callback.on_prediction_step(None, state, CONTROL, eval_dataloader=endless)
        assert callback.prediction_bar is None
    for event in ("on_evaluate", "on_predict"):
        for done in (1, 2):
            callback.on_prediction_step(None, state, CONTROL, eval_dataloader=[1, 2])
            assert (callback.prediction_bar.n, callback.prediction_bar.total) == (done, 2)
        assert callback.prediction_bar.leave is False
        getattr(callback, event)(None, state, CONTROL, metrics={})
        assert callback.prediction_bar is None
    callback.on_train_end(None, state, CONTROL)


def test_an_evaluation_without_a_training_has_a_bar_that_stays(open_terminal):
    terminal = open_terminal()
    callback, state = ProgressCallback(), TrainerState()
    for _ in range(3):
        callback.on_prediction_step(None, state, CONTROL, eval_dataloader=[1, 2, 3])
    callback.on_log(None, state, CONTROL, logs={"eval_loss": 1.0})
    callback.on_evaluate(None, state, CONTROL, metrics={})
    assert "3/3" in terminal.err.getvalue().splitlines()[-1]
    assert terminal.err.getvalue().endswith("\n")


def test_a_bar_left_over_by_an_evaluation_that_broke_off_makes_room_when_full(open_terminal):
    open_terminal()
    callback, state = ProgressCallback(), TrainerState()
    for _ in range(5):
        callback.on_prediction_step(None, state, CONTROL, eval_dataloader=[1, 2])
        assert callback.prediction_bar.n <= 2
    callback.on_evaluate(None, state, CONTROL, metrics={})


@pytest.mark.parametrize("event", ["on_train_end", "on_exception"])
def test_the_terminal_is_left_at_the_beginning_of_a_line(event, open_terminal):
    terminal = open_terminal()
    callback, state = begin()
    step(callback, state, 3)
    callback.on_prediction_step(None, state, CONTROL, eval_dataloader=[1, 2])
    getattr(callback, event)(None, state, CONTROL, exception=KeyboardInterrupt())
    assert terminal.err.getvalue().endswith("\n")
    assert callback.training_bar is callback.prediction_bar is None
    getattr(callback, event)(None, state, CONTROL, exception=KeyboardInterrupt())  # a second time there is nothing


def test_only_the_first_process_of_all_shows_anything(open_terminal):
    terminal = open_terminal()
    callback, state = ProgressCallback(), TrainerState(max_steps=3, is_world_process_zero=False)
    callback.on_train_begin(None, state, CONTROL)
    step(callback, state, 3)
    callback.on_log(None, state, CONTROL, logs={"loss": 1.0})
    callback.on_prediction_step(None, state, CONTROL, eval_dataloader=[1])
    callback.on_evaluate(None, state, CONTROL, metrics={})
    callback.on_train_end(None, state, CONTROL)
    assert terminal.out.getvalue() == terminal.err.getvalue() == ""


def test_bars_that_could_not_be_drawn_leave_others_alone(open_terminal):
    terminal = open_terminal()
    error = terminal.err.error = OSError(5, "Input/output error")
    for _ in range(25):  # more than a terminal has lines
        ProgressCallback().on_train_begin(None, TrainerState(max_steps=3), CONTROL)
    terminal.err.error = None
    assert error.__traceback__ is not None  # which keeps alive what was half made
    callback, state = begin(steps=3)
    assert callback.training_bar.pos == 0
    callback.on_train_end(None, state, CONTROL)


def test_two_trainings_in_one_process_have_a_bar_each(open_terminal):
    open_terminal()
    (one, its_state), (other, other_state) = begin(steps=4), begin(steps=6)
    step(one, its_state, 4)
    step(other, other_state, 2)
    assert (one.training_bar.n, other.training_bar.n) == (4, 2)
    assert one.training_bar.pos != other.training_bar.pos
    one.on_train_end(None, its_state, CONTROL)
    step(other, other_state, 4)
    assert other.training_bar.n == 6
    other.on_train_end(None, other_state, CONTROL)


def test_a_training_that_ended_unheard_leaves_no_bar_behind(open_terminal):
    open_terminal()
    callback, state = begin()
    first = callback.training_bar
    callback.on_train_begin(None, state, CONTROL)
    assert first.disable
    callback.on_train_end(None, state, CONTROL)


def test_no_thread_watches_the_bar(tmp_path):
    body = """
        import threading
        found = set()
        run(ProgressCallback(), wait=lambda: found.update(threading.enumerate()))
        assert found == {threading.main_thread()}, found
    """
    subprocess.run([sys.executable, program(tmp_path, body)], check=True, timeout=60)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_a_copy_has_no_bars_and_can_begin_its_own(duplicate, open_terminal):
    open_terminal()
    callback, state = begin(max_str_len=7)
    twin = duplicate(callback)
    assert (twin.training_bar, twin.max_str_len) == (None, 7)
    twin.on_train_begin(None, state, CONTROL)
    assert twin.training_bar is not callback.training_bar
    for each in (twin, callback):
        each.on_train_end(None, state, CONTROL)


def test_a_step_between_two_drawings_makes_no_string(open_terminal):
    terminal = open_terminal()
    callback, state = begin(steps=100_000)
    callback.training_bar.mininterval = 3600
    step(callback, state)
    written = len(terminal.err.getvalue())
    names = []
    sys.setprofile(lambda frame, event, what: names.append(frame.f_code.co_name) if event == "call" else None)
    try:
        step(callback, state, 100)
    finally:
        sys.setprofile(None)
    assert len(terminal.err.getvalue()) == written
    assert set(names) <= {"step", "on_step_end", "update"}
    callback.training_bar.mininterval = 0.1
    callback.on_train_end(None, state, CONTROL)


# Notebooks


@pytest.mark.parametrize("has_widgets", [True, False])
def test_a_notebook_shows_a_bar_and_no_warning(has_widgets, tmp_path):
    block = "" if has_widgets else "import sys; sys.modules['ipywidgets'] = None\n"
    cell = block + RUN + "run(ProgressCallback())"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    client = nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = notebook.cells[0].outputs
    text = "".join(output.get("text", "") for output in outputs)
    assert text.count("'loss': '0.1235'") == 4
    assert "Warning" not in text
    shown = [output for output in outputs if output["output_type"] == "display_data"]
    if has_widgets:
        assert any("application/vnd.jupyter.widget-view+json" in output["data"] for output in shown)
    else:
        assert "20/20" in text


def test_importing_it_loads_neither_tqdm_nor_torch():
    code = "import sys, loopwright.callbacks.progress; print({'tqdm', 'torch', 'asyncio'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
