"""The implementations of the same training, each in a file with one function, `train(job)`.

A file is imported in its worker only, so that no library is loaded beside another.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.recipe import Job
    from benchmarks.settings import Setting

BARE, BARE_RANKS = "bare", "bare ranks"
INSTALL_PEERS = 'pip install -e ".[peers]"'


@dataclass(frozen=True)
class Implementation:
    """One way to train.

    Arguments:
        module: The file here that holds it.
        distribution: The package that it needs; None for what is in this repository.
        import_statement: What its users write to get at the central class.
        lacks: Settings that it has no means for, and is left out of.
        suite: The one suite that it is for; None for all.
    """

    module: str
    distribution: str | None
    import_statement: str | None
    lacks: frozenset[str] = frozenset()
    suite: str | None = None

    @property
    def is_peer(self) -> bool:
        """Whether it is another library's."""
        return self.distribution is not None

    @property
    def is_installed(self) -> bool:
        """Whether its package is there."""
        try:
            return self.distribution is None or bool(version(self.distribution))
        except PackageNotFoundError:
            return False

    def can(self, setting: Setting) -> bool:
        """Return whether it has the means that `setting` asks for."""
        return not any(getattr(setting, name) for name in self.lacks)

    def train(self, job: Job) -> None:
        """Do the training."""
        self.load().train(job)

    def load(self) -> ModuleType:
        """Import its file, and with it the library."""
        return import_module(f"{__name__}.{self.module}")


_CALLBACKS = frozenset({"idle_callbacks", "listening_callbacks"})
_REPORTING = frozenset({"trackers", "silent"})

IMPLEMENTATIONS: dict[str, Implementation] = {
    # The limit, whatever is asked of the others: no bar, no callbacks.
    BARE: Implementation("bare", None, None, _REPORTING),
    # The limit of several processes.
    BARE_RANKS: Implementation("bare_ranks", None, None, _REPORTING, suite="ranks"),
    "loopwright": Implementation("loopwright", None, "from loopwright import Trainer"),
    "transformers": Implementation("transformers_trainer", "transformers", "from transformers import Trainer"),
    "lightning": Implementation("lightning_trainer", "lightning", "from lightning.pytorch import Trainer", _REPORTING),
    # Handlers are attached to events, so there is none that listens to nothing.
    "ignite": Implementation(
        "ignite_engine", "pytorch-ignite", "from ignite.engine import Engine", _REPORTING | {"idle_callbacks"}
    ),
    "accelerate": Implementation(
        "accelerate_loop", "accelerate", "from accelerate import Accelerator", _CALLBACKS | _REPORTING
    ),
}
