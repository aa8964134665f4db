"""Make one file of weights of a checkpoint that several processes have written in shards."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from loopwright._support.files import sync_directory
from loopwright.checkpoint.layout import (
    LOOPWRIGHT_STATE_NAME,
    MANIFEST_NAME,
    STATE_NAMES,
    WEIGHTS_NAME,
)
from loopwright.checkpoint.shards import MODEL_SHARDS_NAME, read_shards, shards_in
from loopwright.checkpoint.verify import require_whole
from loopwright.checkpoint.weights import write_state
from loopwright.errors import CheckpointError
from loopwright.state import TRAINER_STATE_NAME

_OF_TRAINING = frozenset({*STATE_NAMES, TRAINER_STATE_NAME, LOOPWRIGHT_STATE_NAME, MANIFEST_NAME, "pinned"})
_OF_RANK = re.compile(r"(.+)_[0-9]+(\.[^.]+)")


def consolidate(checkpoint: Path | str, output: Path | str) -> Path:
    """Write the weights of `checkpoint` as one `model.safetensors`, and return its path.

    What was saved beside them, the model's configuration and the processing class, is copied: `output` can be loaded
    with `from_pretrained` then. Memory is needed for all weights at once.

    Arguments:
        checkpoint: With shards; it stays as it is.
        output: Made where it doesn't exist, or empty.

    Raises:
        CheckpointError: there are no shards, or `output` holds something.
        CheckpointDamaged: the checkpoint isn't whole.
    """
    checkpoint, output = Path(checkpoint), Path(output)
    require_whole(checkpoint)
    if not shards_in(checkpoint, MODEL_SHARDS_NAME):
        raise CheckpointError(f"{checkpoint} has no {MODEL_SHARDS_NAME}: its weights are in one piece already")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{output} is there already: expected a new directory, or an empty one")
    state = read_shards(checkpoint, MODEL_SHARDS_NAME)
    # Made beside it and renamed: a kill leaves no half of a file under a name that somebody loads.
    scratch = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        write_state(state, scratch)
        for file in checkpoint.iterdir():
            if file.is_file() and not _is_of_training(file.name):
                shutil.copy2(file, scratch / file.name)
        sync_directory(scratch)
        scratch.replace(output)
        sync_directory(output.parent)
    except OSError as error:
        raise CheckpointError(f"{output} could not be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return output / WEIGHTS_NAME


def _is_of_training(name: str) -> bool:
    of_rank = _OF_RANK.fullmatch(name)
    return name in _OF_TRAINING or (of_rank is not None and "".join(of_rank.groups()) in _OF_TRAINING)
