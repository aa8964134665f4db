"""Show arguments as a dict, as JSON and as text, secrets masked."""

from __future__ import annotations

import dataclasses
import functools
import json
from enum import Enum
from typing import Any

from loopwright.arguments.masking import is_secret, mask
from loopwright.arguments.processes import ProcessView
from loopwright.arguments.renamed import TWINS, RenamedArguments
from loopwright.arguments.retired import RetiredArguments

# Old names are empty by now, and of two names one is enough: a copy made from the dict may then change it.
_HIDDEN = frozenset(
    {field.name for old in (RenamedArguments, RetiredArguments) for field in dataclasses.fields(old)} | TWINS.keys()
)


class Export(ProcessView):
    """The arguments' outward forms."""

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments by name, enums as plain strings, secrets as "<NAME>"; without deprecated names."""
        kind: Any = type(self)
        return {name: mask(name) if hides_it else _plain(getattr(self, name)) for name, hides_it in _shown(kind)}

    def to_json_string(self) -> str:
        """Return `to_dict` as JSON, which `from_file` reads; what JSON can't hold is written as its `repr`."""
        return json.dumps(self.to_dict(), indent=2, default=repr)

    def to_sanitized_dict(self) -> dict[str, Any]:
        """Return `to_dict` and the batch sizes for trackers: numbers, booleans and text as they are, others as text."""
        found = self.to_dict() | {"train_batch_size": self.train_batch_size, "eval_batch_size": self.eval_batch_size}
        return {
            name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in found.items()
        }

    def __str__(self) -> str:
        lines = "".join(f"    {name}={value!r},\n" for name, value in sorted(self.to_dict().items()))
        return f"{type(self).__name__}(\n{lines})"

    __repr__ = __str__

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # dataclass leaves a class its own repr; the one that it would write otherwise shows secrets.
        type.__setattr__(cls, "__repr__", cls.__repr__)  # by name: assigned, its type would be in doubt


@functools.cache
def _shown(kind: type[Any]) -> list[tuple[str, bool]]:
    """Return the names that are shown of arguments of the class `kind`, and which of them are secret."""
    names = [field.name for field in dataclasses.fields(kind) if field.init and field.name not in _HIDDEN]
    return [(name, is_secret(name)) for name in names]


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
