"""The generic tracker and its service, as the tests of trackers have them."""

from tests.trackers.conftest import generic, service

__all__ = ["generic", "service"]
