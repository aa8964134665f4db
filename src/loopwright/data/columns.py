"""Find out what a model's forward takes, and drop the dataset columns that it doesn't."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from loopwright._support.log import Logger, get_logger
from loopwright.errors import DataError

logger: Logger = get_logger(__name__)

# Names that data collators turn into "labels".
_LABEL_COLUMNS = ("label", "label_ids")
_ANSWER_SPAN = ("start_positions", "end_positions")


def inner_model(model: nn.Module) -> nn.Module:
    """Return the model whose forward says what it takes: below `torch.compile`'s wrapper and a PEFT adapter."""
    # A compiled module's forward is (*args, **kwargs).
    while isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
        model = compiled
    get_base_model = getattr(model, "get_base_model", None)
    return get_base_model() if callable(get_base_model) else model


def signature_columns(model: nn.Module, label_names: Sequence[str]) -> list[str]:
    """Return the columns worth keeping: the parameters of the model's forward, and all names of labels.

    Of a forward with `**kwargs` only the named parameters count, as in transformers.
    """
    parameters = inspect.signature(inner_model(model).forward).parameters
    return list(dict.fromkeys((*parameters, *_LABEL_COLUMNS, *label_names)))


def find_label_names(model_class: type[nn.Module]) -> list[str]:
    """Return the parameters of the class's forward that are labels, in their order."""
    names = list(inspect.signature(model_class.forward).parameters)
    spans = _ANSWER_SPAN if "QuestionAnswering" in model_class.__name__ else ()
    return [name for name in names if "label" in name or name in spans]


def main_input_name(model: nn.Module) -> str:
    """Return the name of the model's main input, whose elements are its tokens."""
    return str(getattr(model, "main_input_name", "input_ids"))


def can_return_loss(model_class: type[nn.Module]) -> bool:
    """Return whether the class's forward computes a loss of itself, having a `return_loss` that is True by default."""
    parameter = inspect.signature(model_class.forward).parameters.get("return_loss")
    return parameter is not None and parameter.default is True


def is_column_dataset(dataset: object) -> bool:
    """Return whether `dataset` is a `datasets.Dataset`, whose columns can be dropped before they are read."""
    # Who has such a dataset has imported the library; we never do.
    kind = getattr(sys.modules.get("datasets"), "Dataset", None)
    return isinstance(kind, type) and isinstance(dataset, kind) and hasattr(dataset, "remove_columns")


def drop_unused_columns(
    dataset: Any, columns: Collection[str], description: str, *, model_name: str = "the model"
) -> Any:
    """Return `dataset` without the columns that aren't in `columns`; itself if that isn't a `datasets.Dataset`.

    Arguments:
        dataset: Any dataset.
        columns: What to keep: what `signature_columns` returned.
        description: What the dataset is for, such as "training", for messages.
        model_name: The model's class, for messages.

    Raises:
        DataError: no column is left.
    """
    if not is_column_dataset(dataset):
        return dataset
    ignored = [name for name in dataset.column_names if name not in columns]
    if not ignored:
        return dataset
    if len(ignored) == len(dataset.column_names):
        raise nothing_left(ignored, columns, description, model_name)
    logger.info(describe_ignored(ignored, description, model_name))
    return dataset.remove_columns(ignored)


def describe_ignored(ignored: Collection[str], description: str, model_name: str) -> str:
    """Return the sentence for the log about columns that were left out."""
    return (
        f"{description} set: {model_name}.forward takes no {', '.join(ignored)}, so these columns are left out "
        "(remove_unused_columns=False keeps them)"
    )


def nothing_left(found: Collection[str], columns: Collection[str], description: str, model_name: str) -> DataError:
    """Return the error that says that the model takes none of the columns there are."""
    return DataError(
        f"{description} set: {model_name}.forward takes none of its columns. It has {', '.join(found)}; the model "
        f"takes {', '.join(columns)}. Rename the columns, or set remove_unused_columns=False if data_collator= "
        "or a forward with **kwargs uses them"
    )
