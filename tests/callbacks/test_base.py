"""The base class: complete, empty, light, and called like transformers'."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
import transformers

from loopwright.callbacks.base import TrainerCallback
from loopwright.callbacks.listening import answered_events
from loopwright.state import TrainerControl, TrainerState


def test_it_answers_nothing_by_itself():
    assert answered_events(TrainerCallback()) == {}


@pytest.mark.parametrize("name", [name for name in vars(transformers.TrainerCallback) if name.startswith("on_")])
def test_every_method_of_transformers_is_there_with_its_parameters(name):
    ours, theirs = (
        [(parameter.name, parameter.kind) for parameter in inspect.signature(getattr(kind, name)).parameters.values()]
        for kind in (TrainerCallback, transformers.TrainerCallback)
    )
    assert [one for one in ours if one[0] != "metrics"] == [one for one in theirs if one[0] != "metrics"]


@pytest.mark.parametrize("name", [name for name in vars(TrainerCallback) if name.startswith("on_")])
def test_a_subclass_can_call_super(name):
    control = TrainerControl()
    result = getattr(TrainerCallback(), name)(None, TrainerState(), control, model=None, metrics={})
    assert result is None
    assert control == TrainerControl()


@pytest.mark.parametrize("module", ["base", "dispatcher", "early_stopping", "events", "flow", "persistence", "printer"])
def test_importing_it_loads_no_torch(module):
    code = f"import sys, loopwright.callbacks.{module}; print({{'torch', 'numpy', 'tqdm'}} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
