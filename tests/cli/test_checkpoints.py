"""`loopwright checkpoints` and `loopwright verify`, as processes, on checkpoints of a real training."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from loopwright import Trainer, TrainingArguments, checkpoint
from loopwright.checkpoint import Snapshot, write_checkpoint
from loopwright.cli import verify
from loopwright.cli.verify import examine, find_places
from loopwright.errors import ArgumentError
from loopwright.state import TrainerState
from tests.cli.running import loopwright

# Of the evaluations at steps 2, 4, 6 and 8, in that order; nothing is measured at the odd steps.
LOSSES = (0.5, 0.25, 0.75, 1.0)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x, labels=None):
        return {"loss": nn.functional.mse_loss(self.layer(x), labels)}


class Scripted(Trainer):
    """Measures what `LOSSES` says."""

    def evaluate(self, *args, **kwargs):
        metrics = {"eval_loss": LOSSES[self.state.global_step // 2 - 1]}
        self.log(metrics)
        return metrics


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the output directory of a training with checkpoints at steps 1 to 8, moved since."""
    folder = tmp_path_factory.mktemp("trained")
    args = TrainingArguments(
        str(folder / "before"),
        max_steps=8,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        metric_for_best_model="loss",
        logging_strategy="no",
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    data = [{"x": torch.randn(3), "labels": torch.zeros(1)} for _ in range(16)]
    Scripted(Network(), args, train_dataset=data, eval_dataset=data[:4]).train()
    return (folder / "before").rename(folder / "out")


@pytest.fixture
def out(trained, tmp_path):
    """Return a copy of that output directory, for one test."""
    return Path(shutil.copytree(trained, tmp_path / "out"))


def change_byte(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def make_foreign(out, step):
    """Leave of a checkpoint what transformers would have written."""
    for name in ("manifest.json", "loopwright_state.json", "training_args.json", "data_state.pt"):
        (out / f"checkpoint-{step}" / name).unlink(missing_ok=True)


def listed(directory, *options):
    finished = loopwright("checkpoints", directory, "--json", *options)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def test_listing_says_step_metric_state_and_marks(out):
    change_byte(out / "checkpoint-3" / "model.safetensors")
    (out / "checkpoint-3" / "optimizer.pt").unlink()
    make_foreign(out, 1)
    (out / "checkpoint-2" / "pinned").touch()
    (out / ".checkpoint-9.host-1.tmp").mkdir()
    finished = loopwright("checkpoints", out)
    assert (finished.returncode, finished.stderr) == (0, "")
    lines = finished.stdout.splitlines()
    assert lines[0].startswith(f"{out} · 8 checkpoints, ")
    assert [cell.strip() for cell in lines[2].split("┃")[1:-1]] == [
        "step", "epoch", "eval_loss", "size", "written", "state", "marks"]  # fmt: skip
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert [(step, epoch, metric, state, marks) for step, epoch, metric, _, _, state, marks in rows] == [
        ("1", "0.25", "", "unverified", ""),
        ("2", "0.50", "0.5", "whole", "pinned"),
        ("3", "0.75", "", "damaged", ""),
        ("4", "1.00", "0.25", "whole", "best"),
        ("5", "1.25", "", "whole", ""),
        ("6", "1.50", "0.75", "whole", ""),
        ("7", "1.75", "", "whole", ""),
        ("8", "2.00", "1", "whole", "newest"),
    ]
    damage = lines.index("checkpoint-3 is damaged:")
    assert sorted(lines[damage + 1 : damage + 3]) == [
        "  model.safetensors: its content has changed since it was written",
        "  optimizer.pt: missing",
    ]
    assert "also here: .checkpoint-9.host-1.tmp (being written or deleted" in finished.stdout
    assert (out / ".checkpoint-9.host-1.tmp").is_dir()


def test_listing_as_json_holds_every_field(out):
    (out / ".checkpoint-9.host-1.gone").mkdir()
    (found,) = listed(out)
    assert (found["directory"], found["hidden"]) == (str(out), [".checkpoint-9.host-1.gone"])
    fourth = found["checkpoints"][3]
    files = list((out / "checkpoint-4").iterdir())
    manifest = json.loads((out / "checkpoint-4" / "manifest.json").read_text())
    assert fourth == {
        "path": str(out / "checkpoint-4"),
        "step": 4,
        "epoch": 1.0,
        "metric": {"name": "eval_loss", "value": 0.25},
        "size": sum(file.stat().st_size for file in files),
        "num_files": len(files),
        "written_at": manifest["written_at"],
        "state": "whole",
        "damage": [],
        "run_id": json.loads((out / "checkpoint-4" / "loopwright_state.json").read_text())["run_id"],
        "is_best": True,
        "is_newest": False,
        "is_pinned": False,
    }


def test_the_newest_is_the_one_written_last_and_the_best_what_the_newest_whole_one_says(out):
    write_checkpoint(
        Snapshot(
            step=5,
            model=Network(),
            trainer_state=TrainerState(1.25, global_step=5, best_model_checkpoint=str(out / "checkpoint-2")),
            loopwright_state={"run_id": "another"},
            training_args_json="{}",
        ),
        out,
    )
    (found,) = listed(out)
    marks = {mark: [c["step"] for c in found["checkpoints"] if c[mark]] for mark in ("is_newest", "is_best")}
    assert marks == {"is_newest": [5], "is_best": [2]}
    change_byte(out / "checkpoint-5" / "model.safetensors")
    (found,) = listed(out)
    marks = {mark: [c["step"] for c in found["checkpoints"] if c[mark]] for mark in ("is_newest", "is_best")}
    assert marks == {"is_newest": [5], "is_best": [4]}


def test_quick_sees_sizes_and_no_content(out):
    change_byte(out / "checkpoint-1" / "model.safetensors")
    (out / "checkpoint-2" / "optimizer.pt").write_bytes(b"short")
    (out / "checkpoint-3" / "scheduler.pt").unlink()
    (out / "checkpoint-4" / "manifest.json").write_text("{}")
    make_foreign(out, 5)
    (found,) = listed(out, "--quick")
    states = [c["state"] for c in found["checkpoints"]]
    assert states == ["sizes match", "damaged", "damaged", "damaged", "unverified", *["sizes match"] * 3]
    assert found["checkpoints"][1]["damage"][0].startswith("optimizer.pt: has 5 bytes, was written with ")
    assert found["checkpoints"][2]["damage"] == ["scheduler.pt: missing"]
    assert found["checkpoints"][3]["damage"] == ["manifest.json: not a manifest: KeyError: 'format'"]


def test_listing_of_a_folder_of_several_and_of_one_checkpoint(out):
    shutil.copytree(out / "checkpoint-4", out.parent / "second" / "checkpoint-4")
    (out.parent / "neither").mkdir()
    several = listed(out.parent, "--quick")
    assert [Path(place["directory"]).name for place in several] == ["out", "second"]
    assert [len(place["checkpoints"]) for place in several] == [8, 1]
    renamed = (out.parent / "second" / "checkpoint-4").rename(out.parent / "kept")
    assert [entry.step for entry in examine(find_places(renamed))] == [4]
    (one,) = json.loads(loopwright("checkpoints", "--json", "--quick", cwd=out / "checkpoint-4").stdout)
    assert [(c["step"], c["is_best"], c["is_newest"]) for c in one["checkpoints"]] == [(4, None, None)]


def test_metrics_of_several_names_stand_beside_their_values(out):
    file = out / "checkpoint-6" / "loopwright_state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"metric": {"name": "eval_f1", "value": 0.5}}))
    for step, metric in ((7, "eval_loss"), (8, {"name": "eval_loss", "value": None})):
        file = out / f"checkpoint-{step}" / "loopwright_state.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"metric": metric}))
    rows = [line for line in loopwright("checkpoints", out, "--quick").stdout.splitlines() if line.startswith("│")]
    metrics = [row.split("│")[3].strip() for row in rows]
    assert metrics == ["", "eval_loss 0.5", "", "eval_loss 0.25", "", "eval_f1 0.5", "", ""]


def test_where_no_metric_was_chosen_there_is_no_column_for_it(out):
    for file in out.glob("checkpoint-*/loopwright_state.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"metric": None}))
    head = next(line for line in loopwright("checkpoints", out, "--quick").stdout.splitlines() if "step" in line)
    assert [name.strip() for name in head.strip("┃").split("┃")] == [
        "step",
        "epoch",
        "size",
        "written",
        "state",
        "marks",
    ]


def test_pins_are_set_and_taken_back(out):
    first = loopwright("checkpoints", out, "--pin", 2, "--pin", 4)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == f"pinned  {out}/checkpoint-2\npinned  {out}/checkpoint-4\n"
    assert [path.parent.name for path in sorted(out.glob("*/pinned"))] == ["checkpoint-2", "checkpoint-4"]
    second = loopwright("checkpoints", out, "--unpin", 4, "--pin", 5, "--unpin", 1, "--json")
    assert json.loads(second.stdout) == [
        {"path": f"{out}/checkpoint-{step}", "is_pinned": is_pinned}
        for step, is_pinned in ((5, True), (4, False), (1, False))
    ]
    assert [path.parent.name for path in sorted(out.glob("*/pinned"))] == ["checkpoint-2", "checkpoint-5"]


@pytest.mark.parametrize("option", ["--pin", "--unpin"])
@pytest.mark.parametrize("step", ["9", "two", "-2", "²"])
def test_a_step_that_is_not_there_is_answered_with_those_that_are(out, option, step):
    finished = loopwright("checkpoints", out, "--pin", 1, f"{option}={step}")
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == (
        f"loopwright: {option} {step}: no such checkpoint in {out}; the steps there: 1, 2, 3, 4, 5, 6, 7, 8\n"
    )
    assert not (out / "checkpoint-1" / "pinned").exists()


def test_pins_that_mean_nothing_are_refused(out):
    both = loopwright("checkpoints", out, "--pin", 1, "--unpin", 1)
    assert (both.returncode, both.stderr) == (
        1,
        "loopwright: --pin 1 and --unpin 1 contradict each other: give one of them\n",
    )
    shutil.copytree(out, out.parent / "second")
    several = loopwright("checkpoints", out.parent, "--pin", 1)
    assert several.returncode == 1
    assert f"give one of {out}, {out.parent / 'second'}\n" in several.stderr
    assert list(out.parent.rglob("pinned")) == []


@pytest.mark.parametrize("command", ["checkpoints", "verify"])
def test_a_path_without_checkpoints_is_one_line_and_no_traceback(command, tmp_path):
    (tmp_path / "notes").write_text("")
    (tmp_path / "empty").mkdir()
    reasons = {
        "absent": f"no such directory: {tmp_path}/absent",
        "notes": f"{tmp_path}/notes is a file: give an output directory, one that holds several, or a checkpoint",
        "empty": f"{tmp_path}/empty holds no checkpoint, nor does a folder in it",
    }
    for name, reason in reasons.items():
        finished = loopwright(command, tmp_path / name)
        assert (finished.returncode, finished.stdout, finished.stderr) == (1, "", f"loopwright: {reason}\n")


def test_a_directory_that_may_not_be_read_is_said(out, monkeypatch):
    iterdir = Path.iterdir

    def refusing(self):
        if self == out:
            raise PermissionError(13, "Permission denied", str(self))
        return iterdir(self)

    monkeypatch.setattr(Path, "iterdir", refusing)  # root may read everything
    for directory in (out, out.parent):
        with pytest.raises(ArgumentError, match=rf"{out} can't be read: Permission denied"):
            find_places(directory)


def test_what_a_training_deletes_meanwhile_is_left_out(out, monkeypatch):
    find_damage = checkpoint.find_damage

    def deleting(path):
        if path.name == "checkpoint-2":
            shutil.rmtree(path)
        return find_damage(path)

    monkeypatch.setattr(checkpoint, "find_damage", deleting)
    assert [entry.step for entry in examine(find_places(out))] == [1, 3, 4, 5, 6, 7, 8]


def test_a_checkpoint_is_known_by_its_name_from_inside_too(out, monkeypatch):
    make_foreign(out, 5)
    monkeypatch.chdir(out / "checkpoint-5")
    for path in (Path(), Path("../checkpoint-5"), out / "checkpoint-5"):
        assert [entry.step for entry in examine(find_places(path))] == [5]


def test_a_terminal_gets_a_bar_where_there_is_much_to_read_and_a_pipe_keeps_its_lines(out, monkeypatch, capsys):
    def talking(path):
        print(f"{path.name} is read")
        return []

    monkeypatch.setattr(checkpoint, "find_damage", talking)
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes a terminal of stderr, for rich
    monkeypatch.delenv("NO_COLOR", raising=False)
    examine(find_places(out))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(verify, "_BAR_FROM_BYTES", 1)
    examine(find_places(out), quick=True)
    assert capsys.readouterr().err == ""
    examine(find_places(out))
    printed = capsys.readouterr()
    assert "reading checkpoint-8" in printed.err
    assert printed.out == "".join(f"checkpoint-{step} is read\n" for step in range(1, 9))


def test_verify_ends_with_0_where_all_are_whole(out):
    (out.parent / "begun" / ".checkpoint-1.host-1.tmp").mkdir(parents=True)
    finished = loopwright("verify", out / "checkpoint-4", out.parent)
    assert (finished.returncode, finished.stderr) == (0, "")
    num_files = len(list((out / "checkpoint-4").iterdir()))
    lines = finished.stdout.splitlines()
    assert len(lines) == 9
    assert lines[0].startswith(f"whole       {out}/checkpoint-4 ({num_files} files, ")


def test_verify_ends_with_1_where_one_is_damaged_and_says_all_that_is_wrong(out):
    change_byte(out / "checkpoint-3" / "model.safetensors")
    (out / "checkpoint-3" / "scheduler.pt").unlink()
    finished = loopwright("verify", "--quiet", out.parent)
    assert finished.returncode == 1
    state, path, *reasons = finished.stdout.split(maxsplit=2)
    assert (state, path) == ("damaged", f"{out}/checkpoint-3:")
    assert sorted(reasons[0].strip().split("; ")) == [
        "model.safetensors: its content has changed since it was written",
        "scheduler.pt: missing",
    ]
    as_json = loopwright("verify", "--json", out)
    assert as_json.returncode == 1
    found = json.loads(as_json.stdout)
    assert [c["step"] for c in found if c["state"] == "damaged"] == [3]
    assert len(found[2]["damage"]) == 2


def test_verify_takes_one_without_manifest_and_says_so(out):
    make_foreign(out, 1)
    finished = loopwright("verify", out / "checkpoint-1")
    assert finished.returncode == 0
    assert finished.stdout.startswith(f"unverified  {out}/checkpoint-1 (")
    assert finished.stdout.endswith("can be opened, but has no manifest.json to tell by\n")
    (out / "checkpoint-1" / "optimizer.pt").write_bytes(b"")
    assert [entry.state for entry in examine(find_places(out / "checkpoint-1"))] == ["damaged"]


def test_verify_wants_a_checkpoint_in_each_path(out, tmp_path):
    (tmp_path / "begun" / ".checkpoint-1.host-1.tmp").mkdir(parents=True)
    finished = loopwright("verify", out / "checkpoint-1", tmp_path / "begun")
    assert (finished.returncode, finished.stderr) == (1, f"loopwright: {tmp_path}/begun holds no checkpoint yet\n")


def test_commands_that_need_no_torch_load_none():
    program = "import sys, loopwright.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
