"""Azure ML: a service on the net. Outside of a job the tracker is off; it has tests of its own, with a stand-in."""

from __future__ import annotations

from tests.trackers import places


class Place(places.Place):
    name = "azure_ml"
    home = "off"
