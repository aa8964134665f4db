"""Name the files of a checkpoint and find the checkpoints of a run; imports no torch.

    <output_dir>/checkpoint-<step>/
        model.safetensors            weights (or what the model's own save_pretrained writes)
        model_shards/  optimizer_shards/
                                     in place of weights and of the optimizer's tensors, where each of several
                                     processes has a part of them: see `shards`
        optimizer.pt  scheduler.pt  scaler.pt  rng_state.pth
        data_state.pt                where in the data it is, and what its epoch began with
        rng_state_1.pth ...          the same two of each further process, where several train
        update.pt                    gradients and batches of an unfinished update; only where training was
                                     interrupted inside one
        trainer_state.json           transformers' keys and no other
        loopwright_state.json        everything of ours
        training_args.json
        manifest.json                written last: size and digest of every other file

The names are transformers', which resumes from such a directory, as Loopwright does from one of its.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath

from loopwright.state import TRAINER_STATE_NAME

PREFIX_CHECKPOINT_DIR = "checkpoint"

WEIGHTS_NAME = "model.safetensors"
WEIGHTS_INDEX_NAME = "model.safetensors.index.json"
PICKLED_WEIGHTS_NAME = "pytorch_model.bin"
PICKLED_WEIGHTS_INDEX_NAME = "pytorch_model.bin.index.json"
OPTIMIZER_NAME = "optimizer.pt"
SCHEDULER_NAME = "scheduler.pt"
SCALER_NAME = "scaler.pt"
RANDOMNESS_NAME = "rng_state.pth"
DATA_STATE_NAME = "data_state.pt"
UPDATE_NAME = "update.pt"
LOOPWRIGHT_STATE_NAME = "loopwright_state.json"
TRAINING_ARGS_NAME = "training_args.json"
MANIFEST_NAME = "manifest.json"

# Beside checkpoints that one attempt of a retried task leaves for the next: where none is whole, that one begins anew.
ATTEMPT_NAME = "loopwright_attempt.json"

# In the order in which they are looked for; the first one found is read.
WEIGHTS_NAMES = (WEIGHTS_NAME, WEIGHTS_INDEX_NAME, PICKLED_WEIGHTS_NAME, PICKLED_WEIGHTS_INDEX_NAME)
# What PEFT writes in their place.
ADAPTER_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
STATE_NAMES = (OPTIMIZER_NAME, SCHEDULER_NAME, SCALER_NAME, RANDOMNESS_NAME, DATA_STATE_NAME, UPDATE_NAME)
REQUIRED_NAMES = (TRAINER_STATE_NAME, LOOPWRIGHT_STATE_NAME)

_CHECKPOINT = re.compile(PREFIX_CHECKPOINT_DIR + r"-([0-9]+)")


def name_of_rank(name: str, index: int) -> str:
    """Return the name of the file that process `index` has in place of `name`; the first one has that itself."""
    path = PurePosixPath(name)
    return f"{path.stem}_{index}{path.suffix}" if index else name


def checkpoint_dir(output_dir: Path | str, step: int) -> Path:
    """Return where the checkpoint of `step` belongs."""
    return Path(output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def step_of(path: Path | str) -> int | None:
    """Return the step in a checkpoint's name, or None where `path` is not named like one."""
    match = _CHECKPOINT.fullmatch(Path(path).name)
    return int(match[1]) if match else None


def list_checkpoints(output_dir: Path | str) -> list[Path]:
    """Return the checkpoints in `output_dir`, lowest step first; none where there is no such directory."""
    output_dir = Path(output_dir)
    if not output_dir.is_dir():
        return []
    found = [(step, path) for path in output_dir.iterdir() if (step := step_of(path)) is not None and path.is_dir()]
    return [path for _, path in sorted(found)]


def get_last_checkpoint(folder: Path | str) -> str | None:
    """Return the path of the checkpoint with the highest step in `folder`, or None where it has none.

    Nothing is verified; `resume_from_checkpoint=True` looks for the newest whole one.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    checkpoints = list_checkpoints(folder)
    return str(checkpoints[-1]) if checkpoints else None


def why_unreadable(directory: Path, name: str) -> str | None:
    """Return why the file `name` of the checkpoint may not be opened, or None where it may.

    It has to be a plain file inside `directory`, whatever the path and the symbolic links say: `name` may come from a
    manifest or an index that somebody tampered with.
    """
    if _is_outside(name):
        return "its path leaves the checkpoint"
    path = directory / name
    try:
        if not path.resolve(strict=True).is_relative_to(directory.resolve()):
            return "a symbolic link leads out of the checkpoint"
        return None if path.is_file() else "not a plain file"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    except (OSError, ValueError, RuntimeError) as error:  # links in a circle, a name with a NUL, no permission
        return f"can't be opened: {error}"


def _is_outside(name: str) -> bool:
    # Read as either system would: the checkpoint may come from the other one.
    return any(bool(path.anchor) or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name)))
