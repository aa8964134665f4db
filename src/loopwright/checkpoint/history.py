"""Make the text of a log history that grows from save to save: what was encoded before isn't encoded again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import chain
from operator import is_
from typing import Any

from loopwright.state import BETWEEN_LINES, encode_lines

_LINES_AT_ONCE = 1000
_UNCHANGING = frozenset({float, int, str, bool, type(None)})


class HistoryText:
    """The text of a log history as `trainer_state.json` holds it, of which what was made once isn't made again.

    To encode a line takes about 3 µs, so a million of them took seconds of each save. A thousand lines are taken from
    the save before if they hold the very objects that they held then, which takes a tenth as long to see; lines that
    hold what can change inside, as lists can, are encoded each time.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[tuple[Any, ...], str]] = {}
        self._lock = threading.Lock()  # a save beside the training, and one that a callback asks for

    def text_of(self, history: Sequence[dict[str, Any]]) -> str:
        """Return the text of all lines.

        Raises:
            TypeError: a line holds what JSON can't.
        """
        whole = len(history) // _LINES_AT_ONCE
        with self._lock:
            parts = [
                self._thousand(number, history[number * _LINES_AT_ONCE : (number + 1) * _LINES_AT_ONCE])
                for number in range(whole)
            ]
        if rest := history[whole * _LINES_AT_ONCE :]:
            parts.append(encode_lines(rest))
        return BETWEEN_LINES.join(parts)

    def _thousand(self, number: int, lines: Sequence[dict[str, Any]]) -> str:
        content = tuple(chain.from_iterable((len(line), *line, *line.values()) for line in lines))
        known, text = self._known.get(number, ((), ""))
        if len(known) == len(content) and all(map(is_, known, content)):
            return text
        self._known.pop(number, None)
        text = encode_lines(lines)
        if _UNCHANGING.issuperset(map(type, content)):
            self._known[number] = content, text
        return text
