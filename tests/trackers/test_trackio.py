"""Trackio holds what the journal holds: in its database, in files for its dashboard, and on a server of its own."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import datetime

import pytest

from loopwright.delivery.store import read_delivered
from loopwright.integrations import TrackioCallback
from loopwright.journal.reader import JournalReader
from loopwright.records import Kind, Status
from loopwright.trackers import trackio as module
from loopwright.trackers import trackio_store
from tests.trackers import readback
from tests.trackers.disks import mount_small_disk
from tests.trackers.journals import ServiceJournal
from tests.trackers.places.trackio import configs_in, points, rows_in
from tests.trackers.trainings import build, deliver_what_is_left

# The SDK's own connections, which it leaves to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Journal(ServiceJournal):
    """A journal of one run that reports to Trackio."""

    tracker_class = TrackioCallback
    age_seconds = 100.0


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """Trackio's directory, and no variable from elsewhere."""
    for name in [name for name in os.environ if name.startswith("TRACKIO_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "trackio"


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "out", name="demo", project="vision")


# Rows


def test_rows_are_the_records_with_their_steps_and_times(journal, directory):
    journal.begin()
    journal.log(1, 30)
    journal.note(Kind.LOG, 30, {"eval_loss": 0.25, "eval_f1": {"cats": 0.5, "dogs": 0.75}, "note": "half way"})
    journal.end()
    assert journal.deliver() is None
    assert {path.suffix for path in directory.iterdir()} <= {".db", ".lock", ".db-wal", ".db-shm"}
    rows = rows_in(directory)
    assert points(rows) == readback.journal(journal.directory)
    assert rows[-1]["metrics"] == {
        "eval/loss": 0.25, "eval/f1/cats": 0.5, "eval/f1/dogs": 0.75, "train/note": "half way", "train/global_step": 30,
    }  # fmt: skip
    with JournalReader(journal.directory) as reader:
        times = [record.time for record in reader.records()]
    assert [datetime.fromisoformat(row["timestamp"]).timestamp() for row in rows] == pytest.approx(times, abs=1e-5)
    assert {(row["run_name"], row["run_id"]) for row in rows} == {("demo", journal.run.id)}


def test_odd_values_arrive_as_far_as_trackio_has_a_form_for_them(journal, directory):
    journal.begin()
    journal.log(1, loss=math.nan, up=math.inf, down=-math.inf, huge=10**400, large=2**70, yes=True, none=None, many=[1])
    journal.end()
    assert journal.deliver() is None
    (row,) = rows_in(directory)
    assert row["metrics"] == {
        "train/loss": "NaN", "train/up": "Infinity", "train/down": "-Infinity", "train/huge": "Infinity",
        "train/large": 2.0**70, "train/yes": 1, "train/global_step": 1,
    }  # fmt: skip


def test_trackios_own_reader_finds_the_curve(journal):
    journal.begin()
    journal.log(1, 5)
    journal.end()
    journal.deliver()
    program = (
        "import json\nfrom trackio.sqlite_storage import SQLiteStorage as s\n"
        "print(json.dumps([[one['step'], one['train/loss']] for one in s.get_logs('vision', 'demo')]))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(found.stdout) == [[step, 1 / step] for step in range(1, 6)]


# The run


def test_configuration_holds_parameters_and_how_the_run_ended(tmp_path, directory):
    journal = Journal(tmp_path / "out", name="demo", parameters={"learning_rate": 0.1, "betas": [0.9, 0.999]})
    journal.begin()
    journal.log(1, 3)
    journal.end(Status.FAILED)
    journal.deliver()
    config = configs_in(directory)["demo"]
    assert config["learning_rate"] == 0.1
    assert config["betas"] == [0.9, 0.999]
    assert config["loopwright/run_id"] == journal.run.id
    assert config["loopwright/status"] == "failed"
    assert points(rows_in(directory)) == readback.journal(journal.directory)


def test_resumed_run_goes_on_under_its_name(journal, directory):
    journal.begin()
    journal.log(1, 5)
    journal.end(Status.FAILED)
    journal.deliver()
    journal.begin(first_step=5)
    journal.log(6, 9)
    journal.end()
    journal.deliver()
    assert points(rows_in(directory)) == readback.journal(journal.directory)
    assert list(configs_in(directory)) == ["demo"]
    assert configs_in(directory)["demo"]["loopwright/status"] == "completed"


def test_second_run_of_a_name_has_a_name_of_its_own(tmp_path, directory):
    journals = [Journal(tmp_path / f"out{number}", name="demo", project="vision") for number in range(2)]
    for journal in journals:
        journal.begin()
        journal.log(1, 2)
        journal.end()
        journal.deliver()
    assert list(configs_in(directory)) == ["demo", f"demo_{journals[1].run.short_id}"]
    assert len({row["run_id"] for row in rows_in(directory)}) == 2


def test_branch_names_its_parent_and_trials_are_a_group(tmp_path, directory):
    branch = Journal(tmp_path / "branch", name="branch", parent_id="ab" * 16, parent_step=7)
    trial = Journal(tmp_path / "trial", name="search", trial_name="trial-3", trial_parameters={"learning_rate": 0.1})
    for journal in (branch, trial):
        journal.begin()
        journal.log(8, 9)
        journal.end()
        journal.deliver()
    configs = configs_in(directory)
    assert configs["branch"]["loopwright/parent_run_id"] == "ab" * 16
    assert configs["branch"]["loopwright/parent_step"] == 7
    assert configs["trial-3"]["_Group"] == "search"
    assert configs["branch"]["_Group"] is None


def test_run_without_a_name_has_that_of_its_folder_and_the_usual_project(tmp_path, directory):
    journal = Journal(tmp_path / "out")
    journal.begin()
    journal.log(1)
    journal.end()
    journal.deliver()
    assert list(configs_in(directory)) == ["out"]
    assert (directory / "huggingface.db").exists()


def test_project_whose_name_trackio_refuses_is_the_usual_one(tmp_path, directory, caplog):
    journal = Journal(tmp_path / "out", project="model_configs")
    journal.begin()
    journal.log(1)
    journal.end()
    assert journal.deliver() is None
    assert (directory / "huggingface.db").exists()
    assert "'model_configs' is not allowed" in caplog.text


def test_contradiction_is_said_in_the_configuration(journal, directory):
    journal.begin()
    whereabouts = journal.log_past(5, 8)
    journal.end(Status.FAILED)
    journal.deliver()
    journal.begin(first_step=5, resumed_at=whereabouts)
    journal.log(6, 8, loss=-1.0)
    journal.end()
    journal.deliver()
    held = points(rows_in(directory))
    assert all(held[place] >= values for place, values in readback.journal(journal.directory).items())
    assert held["train/loss", 7] == {1 / 7: 1, -1.0: 1}
    assert configs_in(directory)["demo"]["loopwright/rewound_to_step"] == 6


# Nothing lost, nothing twice


@pytest.mark.parametrize("lost", [{"cursor": 0, "reference": "{}"}, {"cursor": 0}, {"cursor": 4}])
def test_what_a_killed_session_had_not_noted_is_there_once(lost, journal, directory):
    journal.begin()
    journal.log(1, 10)
    journal.deliver()
    journal.forget(**lost)
    journal.log(11, 12)
    journal.end()
    assert journal.deliver() is None
    assert points(rows_in(directory)) == readback.journal(journal.directory)
    assert len(rows_in(directory)) == 12


def test_delivery_killed_between_database_and_cursor_repeats_nothing(journal, directory):
    journal.begin()
    journal.log(1, 700)
    journal.end()
    journal.recorder.close()
    program = """
import os, runpy, signal, sys
from loopwright.trackers import trackio_store
append = trackio_store.LocalStore.append
def fatal(self, target, rows, config):
    append(self, target, rows, config)
    os.kill(os.getpid(), signal.SIGKILL)
trackio_store.LocalStore.append = fatal
sys.argv = ["loopwright", "sync", sys.argv[1]]
runpy.run_module("loopwright", run_name="__main__", alter_sys=True)
"""
    for number in (1, 2):
        killed = subprocess.run(
            [sys.executable, "-c", program, str(journal.directory)], capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(rows_in(directory)) == 500, number
    deliver_what_is_left(journal.directory)
    assert points(rows_in(directory)) == readback.journal(journal.directory)


@pytest.mark.parametrize("is_at_once", [True, False])
def test_deleted_database_is_filled_again(is_at_once, journal, directory):
    journal.begin()
    journal.log(1, 5)
    worker = journal.start_worker()
    while worker.pending():
        time.sleep(0.02)
    (directory / "vision.db").unlink()
    if not is_at_once:
        journal.log(6, 7)
        while worker.pending():
            time.sleep(0.02)
    worker.stop()
    assert worker.join(10)
    journal.log(8, 9)
    journal.end()
    assert journal.deliver() is None
    assert points(rows_in(directory)) == readback.journal(journal.directory)


def test_full_disk_loses_nothing(journal, directory, request):
    directory.mkdir()
    mount_small_disk(request, directory, "4m")
    journal.deliver_over_full_disk(directory / "ballast", 2000)
    assert points(rows_in(directory)) == readback.journal(journal.directory)


def test_unwritable_directory_loses_nothing(journal, directory):
    directory.write_text("a file stands in the way")
    journal.begin()
    journal.log(1, 5)
    assert journal.deliver() is not None
    directory.unlink()
    journal.end()
    assert journal.deliver() is None
    assert points(rows_in(directory)) == readback.journal(journal.directory)


def test_a_later_sync_finds_the_directory_from_elsewhere(journal, directory, monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", "beside")
    journal.begin()
    journal.log(1, 5)
    journal.deliver()
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "other"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    journal.log(6, 7)
    journal.end()
    journal.recorder.close()
    deliver_what_is_left(journal.directory)
    assert points(rows_in(tmp_path / "beside")) == readback.journal(journal.directory)
    assert not (tmp_path / "other").exists()


def test_files_for_the_dashboard_hold_the_rows_and_are_imported_once(journal, directory, monkeypatch):
    monkeypatch.setenv("TRACKIO_STORAGE_MODE", "jsonl")
    journal.begin()
    journal.log(1, 5)
    journal.deliver()
    journal.forget(cursor=2)
    journal.log(6, 7)
    journal.end()
    assert journal.deliver() is None
    assert not list(directory.glob("*.db"))
    program = "from trackio import fragments; fragments.import_inbox_dir()"
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)
    assert points(rows_in(directory)) == readback.journal(journal.directory)
    assert configs_in(directory)["demo"]["loopwright/run_id"] == journal.run.id


# A Space


def test_space_without_a_token_is_the_local_database_and_said_once(tmp_path, directory, caplog):
    for number in range(2):
        journal = Journal(tmp_path / f"out{number}", arguments={"trackio_space_id": "me/curves"})
        journal.begin()
        journal.log(1, 2)
        journal.end()
        assert journal.deliver() is None
    assert len(rows_in(directory)) == 4
    (line,) = [line for line in caplog.messages if "me/curves" in line]
    assert "no token for the Hub" in line
    assert "trackio sync --project huggingface --space-id me/curves" in line


def test_space_that_cannot_be_made_is_the_local_database(tmp_path, directory, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_one")
    journal = Journal(tmp_path / "out", arguments={"trackio_space_id": "me/unreachable"})
    journal.begin()
    journal.log(1, 2)
    journal.end()
    assert journal.deliver() is None
    assert len(rows_in(directory)) == 2
    assert "is in the local database and not in me/unreachable" in caplog.text
    assert "hf_not_a_real_one" not in caplog.text


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_space_bucket_and_privacy_are_handed_on(by, tmp_path, monkeypatch):
    asked, opened = [], []

    def make_space(project, space, bucket, *, is_private):
        asked.append((project, space, bucket, is_private))
        return f"me/{space}"

    def server_store(place, token=None):
        opened.append(place)
        return trackio_store.LocalStore(tmp_path / "stand-in")

    monkeypatch.setattr(module.stores, "hub_token", lambda: "hf_token")
    monkeypatch.setattr(module.stores, "make_space", make_space)
    monkeypatch.setattr(module, "ServerStore", server_store)
    arguments = {"trackio_bucket_id": "me/bucket", "hub_private_repo": True}
    if by == "argument":
        arguments["trackio_space_id"] = "curves"
    else:
        monkeypatch.setenv("TRACKIO_SPACE_ID", "curves")
    journal = Journal(tmp_path / "out", project="vision", arguments=arguments)
    journal.begin()
    journal.log(1)
    journal.deliver()
    journal.log(2)
    journal.end()
    journal.deliver()
    assert asked == [("vision", "curves", "me/bucket", True)]
    assert opened == ["me/curves", "me/curves"]


# A server


SERVER = """
import socket, sys
import uvicorn
from trackio import server
app, token = server.build_starlette_app_only()
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
print(listener.getsockname()[1], token, flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running Trackio server: its directory, its address and its token."""
    held = tmp_path_factory.mktemp("server")
    environment = {**os.environ, "TRACKIO_DIR": str(held), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen([sys.executable, "-c", SERVER], env=environment, stdout=subprocess.PIPE, text=True)
    port, token = process.stdout.readline().split()
    yield held, f"http://127.0.0.1:{port}", token
    process.kill()
    process.wait(10)
    process.stdout.close()


@pytest.mark.parametrize("form", ["in the address", "in a variable"])
def test_server_holds_the_journal_after_a_repeat_and_no_file_of_ours_its_token(
    form, server, tmp_path, monkeypatch, directory
):
    held, address, token = server
    monkeypatch.setenv("TRACKIO_SERVER_URL", f"{address}/?write_token={token}" if "address" in form else address)
    if "variable" in form:
        monkeypatch.setenv("TRACKIO_WRITE_TOKEN", token)
    journal = Journal(tmp_path / "out", name="demo", project=form)
    journal.begin()
    journal.log(1, 5)
    assert journal.deliver() is None
    journal.forget(cursor=2)
    journal.log(6, 7)
    journal.end()
    assert journal.deliver() is None
    rows = [row for row in rows_in(held) if row["run_id"] == journal.run.id]
    assert points(rows) == readback.journal(journal.directory)
    assert not directory.exists()
    assert all(token.encode() not in path.read_bytes() for path in journal.directory.rglob("*") if path.is_file())


def test_server_without_a_token_is_the_local_database(server, journal, directory, monkeypatch, caplog):
    monkeypatch.setenv("TRACKIO_SERVER_URL", server[1])
    journal.begin()
    journal.log(1, 2)
    journal.end()
    assert journal.deliver() is None
    assert len(rows_in(directory)) == 2
    assert "set TRACKIO_WRITE_TOKEN" in caplog.text


def test_server_that_is_away_loses_nothing(server, journal, monkeypatch):
    held, address, token = server
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    away = f"http://127.0.0.1:{free.getsockname()[1]}/"
    free.close()
    monkeypatch.setenv("TRACKIO_SERVER_URL", f"{away}?write_token={token}")
    journal.begin()
    journal.log(1, 5)
    began = time.monotonic()
    assert "nothing answers at" in journal.deliver()
    assert time.monotonic() - began < 15
    assert token not in read_delivered(journal.directory, journal.run.id, "trackio").error
    # The same server is back, at the address that it had then.
    store = journal.forget
    store(reference=json.dumps({"place": {"server": address}}))
    monkeypatch.setenv("TRACKIO_SERVER_URL", f"{address}/?write_token={token}")
    journal.end()
    assert journal.deliver() is None
    rows = [row for row in rows_in(held) if row["run_id"] == journal.run.id]
    assert points(rows) == readback.journal(journal.directory)


# In the training process


def run_program(text, tmp_path):
    """Run a program of its own, as Trackio takes its directory when it is imported; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OUT": str(tmp_path / "out")}
    finished = subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout + finished.stderr


def test_training_reports_without_a_word_from_trackio(tmp_path, directory, capfd):
    trainer = build(tmp_path / "out", report_to="trackio", run_name="demo", tracker_close_timeout=60)
    trainer.train()
    trainer.reporting.close()
    assert points(rows_in(directory)) == readback.journal(tmp_path / "out")
    said = capfd.readouterr()
    assert "Trackio" not in said.out + said.err
    assert "loss" in said.out


def test_trackio_log_of_a_callback_lands_in_the_run_at_the_present_step(tmp_path, directory):
    said = run_program(
        """
import os
import trackio
from loopwright import TrainerCallback
from tests.trackers.trainings import build

class LogsItself(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        trackio.log({"mine": state.global_step})

trainer = build(os.environ["OUT"], report_to="trackio", run_name="demo", callbacks=[LogsItself()])
trainer.train()
trackio.log({"after": 1.0})
trainer.reporting.close()
""",
        tmp_path,
    )
    rows = rows_in(directory)
    mine = [row for row in rows if "mine" in row["metrics"]]
    after = [row for row in rows if "after" in row["metrics"]]
    assert [(row["step"], row["metrics"]["mine"]) for row in mine] == [(step, step) for step in range(1, 13)]
    assert [row["step"] for row in after] == [12]
    assert points([row for row in rows if row not in mine + after]) == readback.journal(tmp_path / "out")
    assert {row["run_name"] for row in rows} == {"demo"}
    assert list(configs_in(directory)) == ["demo"]
    assert configs_in(directory)["demo"]["loopwright/status"] == "completed"
    assert "*" not in said, "Trackio itself says nothing"


def test_run_of_the_program_is_used_and_goes_on(tmp_path, directory):
    run_program(
        """
import os
import trackio
from tests.trackers.trainings import build
run = trackio.init("mine", "ours", config={"theirs": 1}, embed=False, auto_log_cpu=False)
for number in range(2):
    trainer = build(os.environ["OUT"] + str(number), report_to="trackio", run_name="unused")
    trainer.train()
    trainer.reporting.close()
trackio.log({"after": 1.0}, step=100)
assert trackio.context_vars.current_run.get() is run
trackio.finish()
""",
        tmp_path,
    )
    rows = rows_in(directory)
    assert {row["run_name"] for row in rows} == {"ours"}
    assert rows.pop()["metrics"] == {"after": 1.0}
    both = [readback.journal(tmp_path / f"out{number}") for number in range(2)]
    assert points(rows) == {place: both[0][place] + both[1][place] for place in both[0] | both[1]}
    config = configs_in(directory)["ours"]
    assert config["theirs"] == 1
    assert config["run_name"] == "unused"


class MyTrackio(TrackioCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs={**logs, "doubled": 2}, **kwargs)


def test_subclass_may_hand_on_other_logs(tmp_path, directory):
    trainer = build(tmp_path / "out", callbacks=[MyTrackio()])
    trainer.train()
    trainer.reporting.close()
    rows = rows_in(directory)
    assert len(rows) == len(trainer.state.log_history)
    assert all(row["metrics"]["train/doubled"] == 2 for row in rows)
