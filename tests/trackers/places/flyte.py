"""Flyte: only within a task; test_flyte.py runs one."""

from __future__ import annotations

from tests.trackers import places


class Place(places.Place):
    name = "flyte"
    home = "off"
