"""Where a tracker lives: in the delivery process, unless something in the training process needs it."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from loopwright.integrations import MLflowCallback, TensorBoardCallback, WandbCallback
from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.placement import place


class OverridesNothing(TensorBoardCallback):
    pass


class OverridesSetup(TensorBoardCallback):
    def setup(self, args, state, model, **kwargs):
        pass


class OverridesLog(TensorBoardCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


@pytest.fixture(autouse=True)
def nothing_imported(monkeypatch):
    for name in ("mlflow", "wandb"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("kind", [TensorBoardCallback, MLflowCallback, WandbCallback, OverridesNothing])
def test_by_default_it_is_the_delivery_process(kind):
    assert place(kind()).place == "delivery"


@pytest.mark.parametrize("kind", [OverridesSetup, OverridesLog])
def test_one_that_overrides_stays(kind):
    found = place(kind())
    assert found.place == "training"
    assert "overrides" in found.reason
    assert found.takes_own_records is (kind is OverridesLog)
    assert found.class_path == "loopwright.trackers.tensorboard:TensorBoardCallback", "sync can build that"


def test_one_with_an_object_of_its_sdk_stays():
    assert place(TensorBoardCallback(object())).place == "training"


@pytest.mark.parametrize(("kind", "module"), [(MLflowCallback, "mlflow"), (WandbCallback, "wandb")])
def test_one_whose_sdk_the_program_uses_stays(kind, module, monkeypatch):
    tracker = kind()
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    found = place(tracker)
    assert (found.place, found.reason) == ("training", f"the program had imported {module} before training")


def test_watching_the_model_needs_the_model(monkeypatch):
    monkeypatch.setenv("WANDB_WATCH", "gradients")
    assert place(WandbCallback()).place == "training"


@pytest.mark.parametrize(
    ("kind", "variable"), [(MLflowCallback, "DISABLE_MLFLOW_INTEGRATION"), (WandbCallback, "WANDB_DISABLED")]
)
def test_variable_switches_it_off(kind, variable, monkeypatch):
    monkeypatch.setenv(variable, "true")
    assert place(kind()).place == "off"


def test_class_that_no_other_process_could_import_stays():
    class Local(TrackerCallback):
        name = "local"

    assert place(Local()).place == "training"
