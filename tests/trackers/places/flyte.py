"""Flyte: only within a task; test_flyte.py is in one, and has a fault matrix of its own."""

from __future__ import annotations

from tests.trackers import places


class Place(places.Place):
    name = "flyte"
    home = "off"
