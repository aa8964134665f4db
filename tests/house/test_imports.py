"""What importing costs: each case in a fresh interpreter, which says which modules it has loaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SDKS = {
    "azureml",
    "clearml",
    "codecarbon",
    "comet_ml",
    "dagshub",
    "dvclive",
    "flytekit",
    "mlflow",
    "neptune",
    "swanlab",
    "tensorboard",
    "tensorboardX",
    "trackio",
    "wandb",
}
LIBRARIES = {
    "accelerate",
    "datasets",
    "ignite",
    "lightning",
    "optuna",
    "pandas",
    "scipy",
    "sklearn",
    "transformers",
    "yaml",
}
# Parts of torch that take seconds to import, and a run may never need.
SLOW_PARTS_OF_TORCH = {
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.onnx",
    "torch.utils.tensorboard",
}
LIGHT_NAMES = (
    "CallbackHandler",
    "DefaultFlowCallback",
    "EarlyStoppingCallback",
    "Event",
    "ExportableState",
    "IntervalStrategy",
    "LoopwrightError",
    "PrinterCallback",
    "ProgressCallback",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
    "TrainingArguments",
)


def modules_loaded_by(statement: str, *, after: str = "pass") -> set[str]:
    """Run `after`, then `statement`; return the modules that the latter loaded."""
    program = "\n".join(
        [
            "import json, sys",
            after,
            "before = set(sys.modules)",
            statement,
            "print(json.dumps(sorted(set(sys.modules) - before)))",
        ]
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(finished.stdout.splitlines()[-1]))


def among(modules: set[str], names: set[str]) -> list[str]:
    """Return those of `modules` that are one of `names` or lie within one."""
    return sorted(module for module in modules if any(f"{module}.".startswith(f"{name}.") for name in names))


@pytest.mark.parametrize("name", LIGHT_NAMES)
def test_name_loads_no_torch(name: str) -> None:
    loaded = modules_loaded_by(f"from loopwright import {name}")
    assert among(loaded, {"loopwright"})
    assert among(loaded, {"torch", "numpy", "safetensors", "rich", "typer", *LIBRARIES, *SDKS}) == []


def test_trainer_loads_little_beyond_torch() -> None:
    loaded = modules_loaded_by("from loopwright import Trainer", after="import torch")
    assert "loopwright.trainer" in loaded
    assert among(loaded, LIBRARIES | SDKS | SLOW_PARTS_OF_TORCH) == []
    # torch's own import loads most of what is needed; a dependency that came in unnoticed would show here.
    foreign = sorted(module for module in loaded if not among({module}, {"loopwright"}))
    assert len(foreign) <= 20, foreign


def test_no_module_of_the_package_loads_a_tracker_or_another_trainer() -> None:
    loaded = modules_loaded_by(
        "import importlib, pkgutil, loopwright\n"
        "for module in pkgutil.walk_packages(loopwright.__path__, 'loopwright.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)",
        after="import torch",
    )
    assert "loopwright.callbacks.progress" in loaded
    assert among(loaded, LIBRARIES | SDKS | SLOW_PARTS_OF_TORCH) == []
