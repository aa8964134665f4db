"""The real trackers with their real SDKs, in which faults are injected: before a call, or when it has done its work.

FAULT_FILE names a file that holds "what@where", such as "hang@open" or "raise-after@deliver"; read at every call.
Beside it one named "fault-met" says that it has happened, and one named "delivered" that something was.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from loopwright.trackers.base import TrackerCallback
from loopwright.trackers.registry import BUILT_IN, Listed


def suffer(where: str, *, is_after: bool = False) -> None:
    """Do what the file says, where it says so."""
    try:
        file = Path(os.environ["FAULT_FILE"])
        what, _, place = file.read_text().strip().partition("@")
    except (FileNotFoundError, KeyError):
        return
    if place != where or what.endswith("-after") is not is_after:
        return
    file.with_name("fault-met").touch()
    what = what.removesuffix("-after")
    if what == "raise":
        raise ConnectionError("injected")
    if what == "exit":
        sys.exit(7)
    if what == "hang":
        time.sleep(3600)


class Faulty:
    """Suffers before and after each call."""

    def setup(self, *args, **kwargs):
        suffer("open")
        super().setup(*args, **kwargs)
        suffer("open", is_after=True)

    def write(self, records):
        suffer("deliver")
        super().write(records)
        suffer("deliver", is_after=True)
        if "FAULT_FILE" in os.environ:
            Path(os.environ["FAULT_FILE"]).with_name("delivered").touch()

    def save_artifact(self, path, record):
        suffer("artifact")
        super().save_artifact(path, record)
        suffer("artifact", is_after=True)

    def close(self, status):
        suffer("close")
        super().close(status)
        suffer("close", is_after=True)


def _faulty(listed: Listed) -> type[TrackerCallback]:
    # No SDK counts as the program's own: the tests read services back in this very process.
    own = {"name": listed.name, "ambient_module": None, "__module__": __name__}
    return type(f"Faulty_{listed.name}", (Faulty, listed.load()), own)


# Where another process can import them.
globals().update({f"Faulty_{listed.name}": _faulty(listed) for listed in BUILT_IN})
