"""`loopwright show`, `compare` and `runs`, as processes, on real runs: whole, killed, resumed, undelivered, hostile."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.cli.running import loopwright, require_harmless


def test_show_of_a_whole_run_says_everything(whole):
    finished = loopwright("show", whole)
    assert finished.returncode == 0, finished.stderr
    for words in (
        "completed · step 9",
        "best eval_loss",
        "loss by step",
        "Last metrics",
        "step 9: DefaultFlowCallback set should_training_stop in on_step_end",
        "checkpoint-9",
        "per_device_train_batch_size  4",
        "seed                         7",
    ):
        assert words in finished.stdout, f"{words}\n{finished.stdout}"
    assert "adam_beta1" not in finished.stdout
    assert "adam_beta1" in loopwright("show", whole, "--all").stdout


def test_show_names_who_stopped_a_run_and_which_attempt_was_killed(resumed):
    text = loopwright("show", resumed).stdout
    assert "EarlyStoppingCallback set should_training_stop in on_evaluate" in text.split("Decisions")[1]
    assert "killed: found open by the next start" in text


def test_show_says_where_the_time_went_and_what_each_callback_cost(resumed, hostile):
    text = loopwright("show", resumed, "--all").stdout
    parts, callbacks = text.split("Where the time went")[1].split("Cost per callback")
    assert "forward and backward" in parts
    assert "EarlyStoppingCallback.on_evaluate" in callbacks
    assert json.loads(loopwright("show", resumed, "--json").stdout)["costs"]["total"] > 0
    older = loopwright("show", hostile).stdout  # its journal holds no costs
    assert "Costs: none recorded: an older Loopwright wrote this run, or it took no step" in older


def test_show_of_a_killed_run_that_nobody_started_again_says_so(killed):
    finished = loopwright("show", killed)
    assert finished.returncode == 0, finished.stderr
    assert "killed: its process is gone" in finished.stdout
    assert json.loads(loopwright("show", killed, "--json").stdout)["status"] == "killed"


@pytest.mark.parametrize("command", ["show", "runs"])
def test_what_is_undelivered_is_said(undelivered, command):
    text = loopwright(command, undelivered).stdout
    assert re.search(r"tensorboard: [0-9]+ undelivered", text)


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", [["show"], ["show", "--all"], ["runs"], ["compare"]])
def test_a_pipe_gets_no_colours_and_no_line_wider_than_the_terminal(resumed, whole, command, columns):
    runs = [resumed, whole] if command == ["compare"] else [resumed]
    finished = loopwright(*command, *runs, columns=columns)
    assert finished.returncode == 0, finished.stderr
    require_harmless(finished.stdout)
    # Sentences and paths are left for the terminal to wrap, so that they can be copied.
    drawn = [line for line in finished.stdout.splitlines() if any(one in line for one in "│┃┤") or "  " in line.strip()]
    assert drawn
    assert max(map(len, drawn)) <= columns


@pytest.mark.parametrize("command", [["show"], ["show", "--all"], ["runs"], ["compare"]])
def test_nothing_of_a_run_is_read_as_markup_or_reaches_the_terminal(hostile, whole, command):
    finished = loopwright(*command, hostile, *([whole] if command == ["compare"] else []))
    assert finished.returncode == 0, finished.stderr
    require_harmless(finished.stdout)
    assert "[red]bold[/red]" in finished.stdout


def test_a_terminal_gets_colours_but_nothing_of_a_run_as_a_command(hostile):
    finished = loopwright("show", hostile, variables={"FORCE_COLOR": "1", "TERM": "xterm-256color"})
    assert "\x1b[1m" in finished.stdout
    for sequence in ("\x1b]0;", "\x1b[2J", "\x07", "\u202e"):
        assert sequence not in finished.stdout


def test_losses_that_are_no_numbers_are_seen_as_such(hostile):
    text = loopwright("show", hostile).stdout
    assert "2 of 5 values are not finite (x)" in text
    marks = next(line for line in text.splitlines() if line.strip(" x") == "" and "x" in line)
    assert marks.count("x") == 2
    found = json.loads(loopwright("show", hostile, "--json").stdout)
    assert found["last_metrics"]["loss"] == 0.25


def test_plot_draws_the_metric_that_was_asked_for(whole):
    assert "eval_loss by step" in loopwright("show", whole, "--plot", "eval_loss").stdout
    finished = loopwright("show", whole, "--plot", "nothing")
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith("loopwright: --plot nothing: no such metric; logged are epoch, eval_loss")


def test_a_run_is_chosen_by_the_first_digits_of_its_id(resumed):
    run_id = json.loads(loopwright("show", resumed, "--json").stdout)["id"]
    for words in ([f"{resumed}:{run_id[:6]}"], [resumed, "--run", run_id[:6]]):
        assert json.loads(loopwright("show", *words, "--json").stdout)["id"] == run_id
    other = "0000" if not run_id.startswith("0000") else "ffff"
    finished = loopwright("show", resumed, "--run", other)
    assert finished.returncode == 1
    assert finished.stderr == f"loopwright: run {other}: no such run in {resumed}; there are {run_id[:8]}\n"


def test_the_directory_in_which_one_stands_is_the_default(whole):
    assert loopwright("show", cwd=whole).stdout.splitlines()[1].startswith("completed")


READERS = ["show", "tail", "export", "runs", "report", "sync"]


@pytest.mark.parametrize("command", READERS)
def test_where_there_is_no_run_one_line_says_so(tmp_path, command):
    finished = loopwright(command, tmp_path / "nowhere")
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == f"loopwright: no such directory: {tmp_path / 'nowhere'}\n"


@pytest.mark.parametrize("command", READERS)
def test_where_a_journal_is_broken_one_line_says_so(tmp_path, command):
    (tmp_path / "journal.db").write_bytes(b"this is no database at all")
    finished = loopwright(command, tmp_path)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == f"loopwright: {tmp_path}/journal.db can't be read: file is not a database\n"


def test_a_file_in_place_of_a_directory_is_named_as_one(whole):
    for command in ("show", "runs"):
        finished = loopwright(command, whole / "journal.db")
        assert finished.returncode == 1
        assert finished.stderr == f"loopwright: {whole}/journal.db is a file: give the output_dir of a training\n"


@pytest.mark.parametrize("words", [["show", "--nothing"], ["compare", "one"], ["export", "--format", "xml"], ["what"]])
def test_a_line_that_cannot_be_understood_ends_with_2(words):
    finished = loopwright(*words)
    assert finished.returncode == 2
    assert "Usage: " in finished.stderr


def test_runs_says_status_steps_best_and_duration(whole, killed):
    text = loopwright("runs", whole).stdout
    assert "completed · step 9 · " in text
    assert "best eval_loss" in text
    (found,) = json.loads(loopwright("runs", killed, "--json").stdout)
    assert (found["status"], found["attempts"][-1]["status"]) == ("killed", "killed")
    assert found["attempts"][-1]["reason"] == "its process is gone"
    assert found["best"]["name"] == "eval_loss"
    assert found["seconds"] > 0


def test_compare_shows_what_differs_and_draws_the_curves_over_each_other(whole, resumed):
    finished = loopwright("compare", whole, resumed)
    assert finished.returncode == 0, finished.stderr
    text = finished.stdout
    differing, rest = text.split("Last metrics")
    assert "learning_rate" in differing
    assert "per_device_train_batch_size" not in differing
    metrics, plot = rest.split("loss by step")
    assert "eval_loss" in metrics
    assert {"a", "b"} <= set(plot)
    found = json.loads(loopwright("compare", whole, resumed, "--json").stdout)
    assert found["arguments"]["learning_rate"] == [5e-05, 0.3]
    assert len(found["last_metrics"]["eval_loss"]) == 2


def test_compare_of_a_run_with_itself_says_that_it_is_one(whole, resumed):
    finished = loopwright("compare", whole, resumed, f"{whole}/.")
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith(f"loopwright: {whole} and {whole}/. are the same run, ")


def test_compare_of_a_run_with_its_copy_has_no_differences(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    text = loopwright("compare", whole, tmp_path / "copy").stdout
    assert "the runs have the same arguments" in text
    assert "*" in text.split("loss by step")[1]
