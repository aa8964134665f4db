"""DVCLive's files hold what the journal holds, each metric once for each step: after kills, resumes and deletions."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loopwright import TrainerCallback
from loopwright.delivery.store import DeliveryStore, read_delivered
from loopwright.errors import ArgumentError, TrackerError
from loopwright.integrations import DVCLiveCallback
from loopwright.journal.reader import JournalReader, SinkEntry
from loopwright.records import Kind, Status
from loopwright.trackers.placement import place
from tests.trackers.journals import ServiceJournal
from tests.trackers.places.dvclive import read_back, recorded
from tests.trackers.trainings import BreakAtStep, build, deliver_what_is_left, same_weights, tracker_at, weights


class Journal(ServiceJournal):
    tracker_class = DVCLiveCallback

    def begin(self, given=None, **arguments):
        """Begin an attempt that reports with the tracker's `arguments`; `given` are the attempt's own."""
        super().begin(**(given or {}))
        tracker = DVCLiveCallback(**arguments)
        path = f"{DVCLiveCallback.__module__}:{DVCLiveCallback.__qualname__}"
        options = {"arguments": tracker.constructor_arguments()}
        with JournalReader(self.directory) as reader:
            (before,) = reader.sinks(self.run.id)
        wants = tracker.wants_checkpoints()
        self.recorder.add_sink(SinkEntry(self.run.id, "dvclive", path, options, before.environment, "delivery", wants))

    def log(self, *steps, **values):
        for step in steps:
            self.note(Kind.LOG, step, values or {"loss": 1 / step, "epoch": step / 10})

    def deliver(self, *, ends=True):
        worker = self.start_worker(status=None if ends else Status.RUNNING)
        until = time.monotonic() + 60
        while (not worker.is_done if ends else worker.pending()) and worker.error is None and time.monotonic() < until:
            time.sleep(0.01)
        worker.stop()
        assert worker.join(20)
        return worker.error

    def record_all(self, *steps, **arguments):
        """Begin, log, end and deliver."""
        self.begin(**arguments)
        self.log(*(steps or (1, 2, 3)))
        self.end()
        assert self.deliver() is None


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    """A directory of the test's own, without any repository around it, and no variable from elsewhere."""
    for name in [name for name in os.environ if name.startswith(("DVC", "HF_DVCLIVE", "STUDIO"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "out")


def load(path):
    from dvclive.serialize import load_yaml

    return load_yaml(path) if str(path).endswith(".yaml") else json.loads(Path(path).read_text())


# Points


def test_points_are_those_of_the_journal_by_name_and_step(journal):
    journal.begin()
    for step in range(10, 300, 10):
        journal.log(step, loss=1 / step, grad_norm=step, learning_rate=1e-05, epoch=step / 100)
    journal.log(290, eval_loss=0.25, eval_f1={"cats": 0.5, "dogs": -0.75}, epoch=2.9, note="half way")
    journal.log(290, train_runtime=1.5, train_loss=0.5, epoch=2.9)
    journal.end()
    assert journal.deliver() is None
    found = read_back(Path("dvclive"))
    assert found == recorded(journal.directory)
    assert found["train/runtime", 290] == {"1.5": 1}
    assert found["eval/f1/cats", 290] == {"0.5": 1}
    assert found["epoch", 290] == {"2.9": 1}
    assert load("dvclive/metrics.json") == {
        "loss": 1 / 290,
        "grad_norm": 290,
        "learning_rate": 1e-05,
        "epoch": 2.9,
        "eval": {"loss": 0.25, "f1": {"cats": 0.5, "dogs": -0.75}},
        "train": {"runtime": 1.5, "loss": 0.5},
        "step": 290,
    }


def test_names_are_those_of_transformers_callback(journal):
    from dvclive.utils import standardize_metric_name

    names = ["loss", "eval_loss", "train_loss", "train_runtime", "epoch", "eval_cats_loss", "test_loss"]
    journal.begin()
    journal.log(1, **dict.fromkeys(names, 1.0))
    journal.end()
    assert journal.deliver() is None
    expected = {standardize_metric_name(name, "dvclive.huggingface") for name in names}
    assert {name for name, _ in read_back(Path("dvclive"))} == expected


def test_what_is_no_plain_number_is_kept_as_dvclive_spells_it(journal):
    strange = {"loss": math.nan, "up": math.inf, "down": -math.inf, "yes": True, "huge": 10**400, "long": 2**70}
    journal.begin()
    journal.log(1, **strange, inner={"a": {"b": -math.inf}, "list": [1]})
    journal.end()
    assert journal.deliver() is None
    values = {name: next(iter(found)) for (name, _), found in read_back(Path("dvclive")).items()}
    assert values == {
        "loss": "nan", "up": "inf", "down": "-inf", "yes": "1", "huge": "inf", "long": str(2**70), "inner/a/b": "-inf",
    }  # fmt: skip
    assert load("dvclive/metrics.json")["loss"] == "nan", "JSON has no NaN"


def test_names_that_cannot_be_files_are_changed_alike_and_told_apart(journal, tmp_path):
    names = ["eval_../../../up", "eval_step", "step/x", "a//b", "tab\there", "tab_here", "x" * 300, "loss", "loss/deep"]
    journal.begin()
    for step in (1, 2):
        journal.log(step, **dict.fromkeys([*names, "eval", "eval_loss"], float(step)))
    journal.end()
    assert journal.deliver() is None
    found = read_back(Path("dvclive"))
    fitting = ["eval/.._/.._/.._/up", "eval/step_", "step_/x", "a/_/b", "tab_here", "tab_here_", "x" * 200, "loss",
               "loss_/deep", "eval_", "eval/loss"]  # fmt: skip
    assert {name for name, _ in found} == set(fitting)
    assert all(found[name, step] == {str(float(step)): 1} for name in fitting for step in (1, 2))
    assert load("dvclive/metrics.json")["eval_"] == 2.0
    assert not list(tmp_path.glob("*up*"))


def test_metric_has_one_row_for_a_step_whatever_is_logged_there(journal):
    journal.begin()
    journal.log(1, 2, 3)
    journal.log(3, eval_loss=0.5, epoch=0.3)
    assert journal.deliver(ends=False) is None
    journal.log(3, eval_loss=0.25, epoch=0.3)
    journal.log(2, eval_loss=9.0)
    journal.log(4, eval_loss=0.125)
    journal.end()
    assert journal.deliver() is None
    found = read_back(Path("dvclive"))
    assert found == recorded(journal.directory)
    assert found["eval/loss", 3] == {"0.25": 1}
    assert load("dvclive/metrics.json")["eval"] == {"loss": 0.125}


# The run and its parameters


def test_parameters_name_and_end_of_the_run_are_in_params(tmp_path):
    parameters = {
        "hidden_size": 8,
        "layers": {"a": None, "b": [1, "2"]},
        "run_name": "mine",
        "odd": "\udcff",
        "x": math.nan,
    }
    journal = Journal(tmp_path / "out", name="mine", parameters=parameters)
    journal.begin()
    journal.log(1)
    journal.end(Status.FAILED)
    assert journal.deliver() is None
    held = load("dvclive/params.yaml")
    assert math.isnan(held.pop("x"))
    assert held.pop("loopwright") == {"run_id": journal.run.id, "status": "failed"}
    assert held == {**{name: parameters[name] for name in ("hidden_size", "layers", "run_name")}, "odd": "?"}


def test_branch_and_trial_have_a_directory_of_their_own_and_say_whose_they_are(tmp_path):
    first = Journal(tmp_path / "out")
    first.record_all(1, 2)
    branch = Journal(tmp_path / "out2", parent_id=first.run.id, parent_step=1)
    branch.record_all(2, 3)
    trial = Journal(tmp_path / "out3", trial_name="trial-3", trial_parameters={"lr": 0.1})
    trial.record_all(1)
    assert read_back(Path("dvclive")) == recorded(first.directory)
    directories = [Path(f"dvclive_{one.run.id[:8]}") for one in (branch, trial)]
    assert [read_back(one) for one in directories] == [recorded(branch.directory), recorded(trial.directory)]
    described = [load(one / "params.yaml")["loopwright"] for one in directories]
    assert (described[0]["parent_run_id"], described[0]["parent_step"]) == (first.run.id, 1)
    assert described[1]["trial"] == "trial-3"


def test_files_that_are_not_ours_stay_as_they_are(journal):
    from dvclive import Live

    with Live("dvclive", save_dvc_exp=False, dvcyaml=False) as live:
        live.log_metric("loss", 7.0)
    journal.record_all(1)
    assert read_back(Path("dvclive")) == {("loss", 0): {"7.0": 1}}
    assert read_back(Path(f"dvclive_{journal.run.id[:8]}")) == recorded(journal.directory)
    assert (
        read_delivered(journal.directory, journal.run.id, "dvclive")
        .reference["shown_at"]
        .endswith(f"dvclive_{journal.run.id[:8]}")
    )


def test_resume_says_to_go_on_in_a_directory_that_holds_files(journal):
    from dvclive import Live

    with Live("dvclive", save_dvc_exp=False, dvcyaml=False) as live:
        live.log_metric("loss", 7.0)
    journal.record_all(1, resume=True)
    assert read_back(Path("dvclive")) == {("loss", 0): {"7.0": 1}} | recorded(journal.directory)


def test_resumed_run_goes_on_in_the_same_directory_from_wherever_it_is_delivered(journal, tmp_path, monkeypatch):
    journal.record_all(1, 2, 3, dir="runs/mine")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    journal.begin(dir="runs/mine")
    journal.log(4, 5)
    journal.end()
    assert journal.deliver() is None
    assert read_back(tmp_path / "runs" / "mine") == recorded(journal.directory)
    assert load(tmp_path / "runs" / "mine" / "metrics.json")["step"] == 5
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Kills, deletions, contradictions


@pytest.mark.parametrize("cursor", [0, 1, 5, 9])
def test_session_killed_after_its_rows_were_written_leaves_each_of_them_once(cursor, journal):
    journal.begin()
    for step in range(1, 6):
        journal.log(step)
        journal.log(step, eval_loss=float(step), epoch=step / 10)
    assert journal.deliver(ends=False) is None
    journal.forget(cursor=cursor)
    journal.log(6)
    journal.end()
    assert journal.deliver() is None
    assert read_back(Path("dvclive")) == recorded(journal.directory)


def test_what_a_kill_or_a_full_disk_cut_off_is_put_right(journal):
    journal.begin()
    journal.log(1, 2, 3, 12)
    journal.log(12, eval_loss=1.0)
    assert journal.deliver(ends=False) is None
    metrics = Path("dvclive/plots/metrics")
    with (metrics / "loss.tsv").open("a") as file:
        file.write("13\t0.")
    with (metrics / "epoch.tsv").open("a") as file:
        file.write("1")
    (metrics / "eval" / "loss.tsv").write_text("ste")
    Path("dvclive/metrics.json").write_text('{"loss": 0.')
    Path("dvclive/params.yaml").write_text("")
    with JournalReader(journal.directory) as reader:
        before_last = reader.records(journal.run.id)[-2].sequence
    journal.forget(cursor=before_last)
    journal.log(14)
    journal.end()
    assert journal.deliver() is None
    assert read_back(Path("dvclive")) == recorded(journal.directory)
    assert load("dvclive/metrics.json") == {"loss": 1 / 14, "epoch": 1.4, "eval": {"loss": 1.0}, "step": 14}
    assert load("dvclive/params.yaml")["loopwright"]["run_id"] == journal.run.id


@pytest.mark.parametrize("gone", ["dvclive", "dvclive/plots", "dvclive/plots/metrics/epoch.tsv"])
def test_deleted_files_come_again_whole(gone, journal):
    journal.record_all(1, 2, 3)
    shutil.rmtree(gone) if Path(gone).is_dir() else Path(gone).unlink()
    journal.begin()
    journal.log(4)
    journal.end()
    assert journal.deliver() is None
    assert read_back(Path("dvclive")) == recorded(journal.directory)
    assert load("dvclive/metrics.json")["step"] == 4


def test_deletion_is_noticed_also_by_the_session_after_one_that_was_killed_at_once(journal):
    journal.record_all(1, 2, 3)
    Path("dvclive/plots/metrics/loss.tsv").unlink()
    journal.begin()
    journal.log(4)
    store = DeliveryStore(journal.directory)
    from loopwright.delivery.sink import Standing

    with JournalReader(journal.directory) as reader:
        last = reader.records(journal.run.id)[-2].sequence
    standing = Standing(
        confirmed=last, next_step=4, reference=store.read(journal.run.id, "dvclive").reference,
        remember=lambda values: store.remember(journal.run.id, "dvclive", values),
    )  # fmt: skip
    tracker = DVCLiveCallback()
    assert tracker.open(journal.run, standing) == 0
    journal.forget()  # killed before delivery had gone back
    store.close()
    journal.end()
    assert journal.deliver() is None
    assert read_back(Path("dvclive")) == recorded(journal.directory)


def test_what_a_resumed_run_contradicts_is_taken_back(journal):
    journal.begin()
    journal.log(1, 2, 3)
    whereabouts = journal.recorder.whereabouts()
    journal.log(4, 5, loss=4.0)
    journal.log(5, eval_loss=5.0)
    journal.end(Status.FAILED)
    assert journal.deliver() is None
    journal.begin(given={"first_step": 3, "resumed_at": whereabouts})
    journal.log(4, loss=-4.0)
    journal.end()
    assert journal.deliver() is None
    found = read_back(Path("dvclive"))
    assert found == recorded(journal.directory)
    assert found["loss", 4] == {"-4.0": 1}
    summary = load("dvclive/metrics.json")
    assert (summary["loss"], summary["step"], "eval" in summary) == (-4.0, 4, False)


KILLED = """
import os, signal, sys
from dvclive import Live
from loopwright.trackers import dvclive_files
log_metric, calls = Live.log_metric, 0
def log_and_die(self, name, value, **kwargs):
    global calls
    calls += 1
    log_metric(self, name, value, **kwargs)
    if calls == int(os.environ["DIES_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
Live.log_metric = log_and_die
from loopwright.cli.main import main
sys.argv = ["loopwright", "sync", sys.argv[1]]
main()
"""


def test_delivery_killed_again_and_again_between_two_rows_leaves_each_once(journal):
    journal.begin()
    for step in range(1, 30):
        journal.log(step)
        journal.log(step, eval_loss=float(step), epoch=step / 10)
    journal.end()
    journal.recorder.close()
    for calls in (1, 4, 35):
        command = [sys.executable, "-c", KILLED, str(journal.directory)]
        environment = {**os.environ, "DIES_AT": str(calls)}
        died = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
    deliver_what_is_left(journal.directory)
    assert read_back(Path("dvclive")) == recorded(journal.directory)
    assert load("dvclive/metrics.json")["loss"] == 1 / 29


# Arguments and the variable


def test_arguments_of_live_are_those_that_it_gets(journal, tmp_path):
    journal.record_all(1, dir=Path("mine"), report="html", dvcyaml=False, save_dvc_exp=False)
    assert read_back(Path("mine")) == recorded(journal.directory)
    report = Path("mine/report.html").read_text()
    assert "vega" in report
    assert '"loss": "1.0"' in report
    assert not Path("dvc.yaml").exists()


def test_report_may_be_markdown(journal):
    journal.record_all(1, 2, report="md")
    assert "loss" in Path("dvclive/report.md").read_text()


def test_dvc_yaml_is_beside_the_program_or_where_it_is_asked_for(journal, tmp_path):
    journal.record_all(1)
    described = load("dvc.yaml")
    assert described["metrics"] == ["dvclive/metrics.json"]
    assert described["plots"] == [{"dvclive/plots/metrics": {"x": "step"}}]
    second = Journal(tmp_path / "out2")
    Path("sub").mkdir()
    second.record_all(1, dir="second", dvcyaml="sub/dvc.yaml")
    assert load("sub/dvc.yaml")["metrics"] == ["../second/metrics.json"]


def test_outside_of_any_repository_nothing_is_said(journal, capfd, caplog):
    journal.record_all(1, 2)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"live": "dvclive"}, "expected a dvclive.Live, found a str"),
        ({"log_model": "everything"}, "expected True, False, 'all' or None"),
        ({"dirr": "mine"}, "has no such argument; .*; did you mean 'dir'?"),
        ({"report": "pdf"}, "expected one of None, 'html', 'md', 'notebook'"),
        ({"dvcyaml": "mine.yaml"}, "a path that ends in dvc.yaml"),
    ],
)
def test_wrong_argument_is_named_at_once(arguments, said):
    with pytest.raises((ArgumentError, TrackerError), match=said):
        DVCLiveCallback(**arguments)


@pytest.mark.parametrize(
    ("text", "argument", "logged"),
    [
        (None, None, False), ("all", None, "all"), ("ALL", None, "all"), ("True", None, True), ("1", None, True),
        ("false", None, False), ("all", False, False), (None, True, True), ("false", "all", "all"),
    ],
)  # fmt: skip
def test_argument_says_what_is_logged_before_the_variable(text, argument, logged, monkeypatch):
    if text is not None:
        monkeypatch.setenv("HF_DVCLIVE_LOG_MODEL", text)
    tracker = DVCLiveCallback(log_model=argument)
    assert tracker._what_to_log() == logged
    assert tracker.wants_checkpoints() is (logged == "all")


def test_variable_that_says_nothing_sensible_is_named_once(monkeypatch, caplog):
    monkeypatch.setenv("HF_DVCLIVE_LOG_MODEL", "perhaps")
    assert [DVCLiveCallback().wants_checkpoints() for _ in range(2)] == [False, False]
    (line,) = caplog.messages
    assert "HF_DVCLIVE_LOG_MODEL='perhaps'" in line
    assert "or all" in line


def test_tracker_lives_in_the_delivery_process_unless_an_argument_cannot_go_there():
    assert place(DVCLiveCallback(dir="mine", report="html")).place == "delivery"
    assert place(DVCLiveCallback(report="notebook")).place == "training"
    strange = DVCLiveCallback(exp_message=object())
    assert place(strange).reason == "exp_message can't be handed to another process"
    assert strange.constructor_arguments() == {"log_model": None}


# Repositories


def git(*arguments, cwd="."):
    command = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(monkeypatch):
    """Git and DVC, with one commit."""
    from dvc.repo import Repo

    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "me")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "me@example.org")
    git("init", "-q")
    Repo.init(".").close()
    Path("train.py").write_text("pass\n")
    Path(".gitignore").write_text("/out*\n")
    git("add", ".")
    git("commit", "-qm", "begin")


def experiments():
    """Return the saved experiments: name -> commit."""
    lines = git("for-each-ref", "refs/exps", "--format=%(refname) %(objectname)").splitlines()
    return {name.rpartition("/")[2]: commit for name, commit in map(str.split, lines) if "/exec/" not in name}


def test_run_is_one_dvc_experiment_whose_last_session_counts(journal, repository):
    journal.record_all(1, 2, exp_name="mine", report="html")
    assert list(experiments()) == ["mine"]
    journal.begin(exp_name="mine", report="html")
    journal.log(3)
    journal.end()
    assert journal.deliver() is None
    (commit,) = experiments().values()
    assert json.loads(git("show", f"{commit}:dvclive/metrics.json"))["step"] == 3
    assert "3\t0.333" in git("show", f"{commit}:dvclive/plots/metrics/loss.tsv")
    assert list(experiments()) == ["mine"]
    assert git("status", "--short", "--untracked-files=no") == ""


def test_no_experiment_is_saved_where_none_is_wanted(journal, repository):
    journal.record_all(1, save_dvc_exp=False)
    assert experiments() == {}


def model(out, name, text="weights"):
    path = out / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.safetensors").write_text(text)
    return {"path": name}


def test_checkpoints_and_model_are_tracked_by_dvc_as_copies_and_kept_out_of_git(journal, repository):
    journal.begin(log_model="all")
    journal.log(1, 2)
    journal.note(Kind.CHECKPOINT, 2, model(journal.directory, "checkpoint-2", "two"))
    journal.note(Kind.ARTIFACT, 2, {**model(journal.directory, "best", "best"), "model": True})
    assert journal.deliver(ends=False) is None
    journal.forget(cursor=1)  # they come again
    journal.end()
    assert journal.deliver() is None
    assert sorted(path.name for path in Path("dvclive/artifacts").iterdir()) == [
        ".gitignore", "best", "best.dvc", "checkpoint-2", "checkpoint-2.dvc",
    ]  # fmt: skip
    assert load("dvc.yaml")["artifacts"] == {"best": {"path": "dvclive/artifacts/best", "type": "model"}}
    cached = [path.read_text() for path in Path(".dvc/cache/files").rglob("*") if path.is_file()]
    assert sorted(text for text in cached if not text.startswith("[")) == ["best", "two"]
    (commit,) = experiments().values()
    held = git("ls-tree", "-r", "--name-only", commit).split()
    assert {"dvclive/artifacts/best.dvc", "dvclive/artifacts/checkpoint-2.dvc", "dvclive/params.yaml"} <= set(held)
    assert not [name for name in held if "safetensors" in name]
    assert (journal.directory / "checkpoint-2" / "model.safetensors").read_text() == "two"


def test_without_a_dvc_repository_it_is_said_once_that_models_are_left_out(journal, caplog):
    journal.begin(log_model="all")
    journal.log(1)
    for step in (1, 2):
        journal.note(Kind.CHECKPOINT, step, model(journal.directory, f"checkpoint-{step}"))
    journal.end()
    assert journal.deliver() is None
    (line,) = caplog.messages
    assert "DVC repository" in line
    assert not Path("dvclive/artifacts").exists()


def test_model_that_dvc_refuses_is_named(journal, repository, caplog):
    Path(".gitignore").write_text("/out*\n/dvclive\n")
    journal.begin(log_model="all", save_dvc_exp=False)
    journal.note(Kind.CHECKPOINT, 1, model(journal.directory, "checkpoint-1"))
    journal.end()
    assert journal.deliver() is None
    assert any("DVC does not track" in line for line in caplog.messages)


def test_run_of_a_repository_is_delivered_from_there_alone(journal, repository, tmp_path, monkeypatch):
    journal.record_all(1)
    (tmp_path.parent / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path.parent / "elsewhere")
    journal.begin()
    journal.log(2)
    journal.end()
    assert f"deliver from {tmp_path}" in journal.deliver()
    monkeypatch.chdir(tmp_path)
    assert journal.deliver() is None
    assert read_back(Path("dvclive")) == recorded(journal.directory)


@pytest.mark.parametrize("answer", ["refuses", "never answers"])
def test_studio_that_is_not_there_costs_seconds_and_no_point(answer, journal, repository, monkeypatch, caplog):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    if answer == "refuses":
        listener.close()
    monkeypatch.setenv("DVC_STUDIO_TOKEN", "isat_not_a_token")
    monkeypatch.setenv("DVC_STUDIO_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("DVC_STUDIO_REPO_URL", "git@example.org:me/it.git")
    began = time.monotonic()
    journal.record_all(1, 2)
    listener.close()
    assert time.monotonic() - began < 20
    assert any("Failed to post to Studio" in line for line in caplog.messages)
    assert read_back(Path("dvclive")) == recorded(journal.directory)
    everything = [path.read_bytes() for path in journal.directory.glob("*.db*")]
    assert not any(b"isat_not_a_token" in content for content in everything)


# Trainings


PATIENT = {"tracker_open_timeout": 30, "tracker_call_timeout": 30, "tracker_close_timeout": 60}


def finish(trainer):
    trainer.train()
    trainer.reporting.close()


BESIDE = """
import sys
from loopwright.integrations import DVCLiveCallback
from tests.trackers.trainings import build
if __name__ == "__main__":
    trainer = build("out", callbacks=[DVCLiveCallback(log_model=True, report="html")], tracker_close_timeout=60,
                    eval_strategy="epoch", num_train_epochs=2, run_name="beside")
    trainer.train()
    trainer.evaluate()
    assert not {"dvclive", "dvc"} & set(sys.modules), "the training imports no SDK"
"""


def test_training_imports_no_sdk_and_model_points_and_experiment_are_there(repository, tmp_path):
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    command = [sys.executable, "-c", BESIDE]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "lacks" not in ended.stderr
    assert read_back(Path("dvclive")) == recorded(tmp_path / "out")
    assert load("dvclive/params.yaml")["run_name"] == "beside"
    assert load("dvclive/params.yaml")["loopwright"]["status"] == "completed"
    (commit,) = experiments().values()
    assert json.loads(git("show", f"{commit}:dvclive/metrics.json"))["step"] == 24
    assert "model.safetensors" in [path.name for path in Path("dvclive/artifacts/last").iterdir()]
    assert load("dvc.yaml")["artifacts"]["last"]["type"] == "model"
    assert Path("dvclive/report.html").exists()


def test_model_is_named_best_where_the_best_is_loaded(repository, tmp_path):
    tracker = type("Here", (DVCLiveCallback,), {"on_epoch_end": lambda *args, **kwargs: None})(
        log_model=True, save_dvc_exp=False
    )
    finish(build(
        tmp_path / "out", callbacks=[tracker], load_best_model_at_end=True, eval_strategy="steps", eval_steps=5,
        save_total_limit=1, **PATIENT,
    ))  # fmt: skip
    assert list(load("dvc.yaml")["artifacts"]) == ["best"]
    assert (tmp_path / "out" / "best" / "model.safetensors").exists()


def test_live_of_the_user_is_used_in_this_process_with_what_the_user_logs(tmp_path, without_trackers):
    from dvclive import Live

    live = Live("mine", save_dvc_exp=False, dvcyaml=False)
    live.log_param("mine", 7)

    class Own(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            live.log_metric("own", state.global_step)

    trainer = build(tmp_path / "out", callbacks=[DVCLiveCallback(live), Own()], **PATIENT)
    finish(trainer)
    assert same_weights(weights(trainer), without_trackers)
    found = read_back(Path("mine"))
    own = [value for (name, _), values in found.items() if name == "own" for value in values.elements()]
    assert sorted(own, key=int) == [str(step) for step in range(1, 13)]
    assert {key: value for key, value in found.items() if key[0] != "own"} == recorded(tmp_path / "out")
    assert load("mine/params.yaml")["mine"] == 7
    assert load("mine/metrics.json")["own"] == 12
    assert not Path("dvclive").exists()


def test_with_block_of_the_user_ends_its_live_itself(repository, tmp_path):
    from dvclive import Live

    with Live("mine", exp_name="mine") as live:
        finish(build(tmp_path / "out", callbacks=[DVCLiveCallback(live)], **PATIENT))
        assert experiments() == {}
        live.log_metric("after", 1.0)
    (commit,) = experiments().values()
    assert json.loads(git("show", f"{commit}:mine/metrics.json"))["after"] == 1.0


def test_what_a_live_of_the_user_could_not_take_is_delivered_to_its_directory(tmp_path, monkeypatch):
    from dvclive import Live

    live = Live("mine", save_dvc_exp=False, dvcyaml=False)

    def refuse():
        monkeypatch.setattr(Live, "log_metric", lambda *args: sys.exit("no"))

    finish(build(
        tmp_path / "out", callbacks=[DVCLiveCallback(live), BreakAtStep({6: refuse})], tracker_call_timeout=10,
        tracker_close_timeout=3,
    ))  # fmt: skip
    assert 0 < len(read_back(Path("mine"))) < len(recorded(tmp_path / "out"))
    deliver_what_is_left(tmp_path / "out")
    assert read_back(Path("mine")) == recorded(tmp_path / "out")
    assert not Path("dvclive").exists()


class MyDVCLive(DVCLiveCallback):
    def setup(self, args, state, model, **kwargs):
        super().setup(args, state, model, **kwargs)
        self.live.log_param("network", type(model).__name__)

    def on_log(self, args, state, control, logs=None, **kwargs):
        changed = {**logs, "doubled": 2 * logs["loss"]} if "loss" in logs else logs
        super().on_log(args, state, control, logs=changed, **kwargs)


def test_subclass_may_override_setup_and_hand_on_other_logs(tmp_path):
    trainer = build(tmp_path / "out", callbacks=[MyDVCLive()], **PATIENT)
    finish(trainer)
    found = read_back(Path("dvclive"))
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 12
    for line in lines:
        assert found["doubled", line["step"]] == {str(2 * line["loss"]): 1}
        assert found["loss", line["step"]] == {str(line["loss"]): 1}
    assert load("dvclive/params.yaml")["network"] == "Network"


@pytest.mark.parametrize(
    ("fault", "home"),
    [
        ("unwritable at open", "delivery"),
        ("deleted", "training"),
        pytest.param("file in its place", "training", marks=pytest.mark.soak),
        pytest.param("unwritable at open", "training", marks=pytest.mark.soak),
        pytest.param("deleted", "delivery", marks=pytest.mark.soak),
        pytest.param("file in its place", "delivery", marks=pytest.mark.soak),
    ],
)
def test_directory_that_fails_changes_nothing(fault, home, tmp_path, without_trackers):
    place = Path("dvclive")
    steps = {}
    if fault == "unwritable at open":
        place.write_text("a file stands in the way")
    elif fault == "deleted":
        steps[9] = lambda: shutil.rmtree(place, ignore_errors=True)
    else:
        steps[9] = lambda: (shutil.rmtree(place, ignore_errors=True), place.write_text("in the way"))
    out = tmp_path / "out"
    trainer = build(out, callbacks=[tracker_at(home, DVCLiveCallback), BreakAtStep(steps)], tracker_call_timeout=20)
    finish(trainer)
    assert same_weights(weights(trainer), without_trackers)
    if place.is_file():
        place.unlink()
    deliver_what_is_left(out)
    assert read_back(place) == recorded(out)
    assert read_delivered(out, trainer.run_id, "dvclive").error is None


def test_delivery_killed_in_the_middle_of_a_training_leaves_each_point_once(tmp_path, without_trackers):
    def kill():
        child = trainer.reporting._delivery._children[0]._process
        if child is not None:
            child.send_signal(signal.SIGKILL)

    trainer = build(
        tmp_path / "out", report_to="dvclive", callbacks=[BreakAtStep(dict.fromkeys((9, 11), kill))],
        tracker_close_timeout=60,
    )  # fmt: skip
    finish(trainer)
    assert same_weights(weights(trainer), without_trackers)
    deliver_what_is_left(tmp_path / "out")
    assert read_back(Path("dvclive")) == recorded(tmp_path / "out")
