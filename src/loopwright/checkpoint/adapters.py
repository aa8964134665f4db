"""Put the weights of PEFT adapters back into the model that they were made for.

`PeftModel.save_pretrained` writes the adapters alone: that called "default" beside the checkpoint's other files, any
other in a folder of its name. The model below them is what the program builds again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from loopwright.checkpoint.layout import ADAPTER_NAMES, WEIGHTS_NAMES
from loopwright.checkpoint.plain_files import first_line
from loopwright.checkpoint.weights import read_file
from loopwright.errors import CheckpointError


def holds_adapters_alone(directory: Path) -> bool:
    """Return whether the weights in `directory` are adapters', and no whole model's."""
    names = [name for name in (*WEIGHTS_NAMES, *ADAPTER_NAMES) if os.path.lexists(directory / name)]
    return bool(names) and set(names) <= set(ADAPTER_NAMES)


def load_adapters(model: nn.Module, directory: Path) -> None:
    """Put every adapter of `model` back as it was saved.

    Raises:
        CheckpointError: the model has no adapters, or others.
        CheckpointDamaged: a file can't be read.
    """
    adapters: Any = getattr(model, "peft_config", None)
    if not adapters:
        raise CheckpointError(
            f"{directory} holds a PEFT adapter only, and a {type(model).__name__} has none: give the Trainer what "
            "peft.get_peft_model returns"
        )
    for name in adapters:
        _load_adapter(model, name, directory if name == "default" else directory / name)


def _load_adapter(model: nn.Module, name: str, directory: Path) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    file = next((file for file in ADAPTER_NAMES if os.path.lexists(directory / file)), None)
    if file is None:
        raise CheckpointError(
            f"{directory} holds no weights of the adapter {name!r}: none of {', '.join(ADAPTER_NAMES)}"
        )
    state = read_file(directory, file, ())
    own = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    try:
        outcome: Any = set_peft_model_state_dict(model, state, adapter_name=name)
    except Exception as error:  # of several kinds, by what doesn't fit
        raise CheckpointError(f"{directory / file} doesn't fit the adapter {name!r}: {first_line(error)}") from error
    strange = sorted({*(own.keys() - state.keys()), *outcome.unexpected_keys})
    if strange:
        raise CheckpointError(f"{directory / file} is not of the adapter {name!r}: {', '.join(strange[:5])}")
