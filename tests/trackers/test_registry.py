"""Which trackers there are, which can be used, and what is said of those that can't."""

from __future__ import annotations

import pytest

from loopwright import Trainer, TrainingArguments
from loopwright.errors import ArgumentError
from loopwright.integrations import TensorBoardCallback
from loopwright.trackers import registry
from tests.trackers.trainings import Network, examples


@pytest.fixture
def only_tensorboard(monkeypatch):
    monkeypatch.setattr(registry, "is_installed", lambda module: module == "tensorboard")


def make(report_to, callbacks=()):
    args = TrainingArguments("out", report_to=report_to, use_cpu=True)
    return Trainer(Network(), args, train_dataset=examples(2), callbacks=list(callbacks))


def trackers_of(trainer):
    return [
        type(callback).__name__ for callback in trainer.callback_handler.callbacks if hasattr(callback, "is_tracker")
    ]


def test_all_is_those_that_are_installed(only_tensorboard):
    trainer = make("all")
    assert trainer.args.report_to == ["tensorboard"]
    assert trackers_of(trainer) == ["TensorBoardCallback"]


@pytest.mark.parametrize("nothing", ["none", [], ["none"]])
def test_none_is_none(nothing):
    assert trackers_of(make(nothing)) == []


def test_name_given_twice_is_one_tracker(only_tensorboard):
    assert trackers_of(make(["tensorboard", "tensorboard"])) == ["TensorBoardCallback"]


def test_name_that_is_not_installed_is_answered_with_the_command_that_installs_it(only_tensorboard):
    with pytest.raises(ArgumentError) as caught:
        make("wandb")
    assert str(caught.value) == (
        "report_to='wandb': its SDK is not installed: pip install \"loopwright[wandb]\"; "
        "installed here: 'tensorboard'; "
        "or 'all', 'none'"
    )


def test_unknown_name_is_answered_with_those_there_are(only_tensorboard):
    with pytest.raises(ArgumentError) as caught:
        make("tensorbord")
    known = ", ".join(sorted(repr(tracker.name) for tracker in registry.BUILT_IN))
    assert str(caught.value) == (
        f"report_to='tensorbord': there is no such tracker; known: {known}; installed here: "
        "'tensorboard'; or 'all', 'none'; did you mean 'tensorboard'?"
    )


def test_instance_of_ones_own_takes_the_place_of_the_one_by_name(only_tensorboard):
    class Mine(TensorBoardCallback):
        pass

    assert trackers_of(make("all", [Mine()])) == ["Mine"]
    assert trackers_of(make("all", [Mine])) == ["Mine"]


def test_third_party_is_found_by_its_entry_point(generic, service, tmp_path, monkeypatch):
    assert "generic" in registry.usable_trackers()
    trainer = make("generic")
    assert trackers_of(trainer) == ["GenericCallback"]


def test_folder_of_a_trackers_name_is_no_sdk(tmp_path, monkeypatch):
    # W&B itself leaves such a folder where it is started, and Python takes it for a package.
    (tmp_path / "trackerless").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    from loopwright._support.extras import is_installed

    assert not is_installed("trackerless")
