"""Count the bytecode instructions that Python executes in Loopwright's own files: the same number on every machine."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import loopwright

_HOME = str(Path(loopwright.__file__).parent)


class OpcodeCounter:
    """Counts in this thread, within its context: `count` so far."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> OpcodeCounter:
        self._before = sys.gettrace()
        sys.settrace(self._enter_frame)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(self._before)

    def _enter_frame(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_HOME):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.count += 1
        return self._step
