"""The Hugging Face Hub: Trackio's places on it, and pushing to it, which Loopwright leaves to a callback.

What is refused has a field because callbacks written for transformers read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from loopwright.arguments.choices import HubStrategy


@dataclass(init=False, repr=False, eq=False)
class HubArguments:
    """The Hub, and Trackio's places on it."""

    push_to_hub: bool = False
    """Refused: push to the Hub with every save."""

    hub_model_id: str | None = None
    """Refused: the repository to push to."""

    hub_strategy: HubStrategy | str = "every_save"
    """Refused at another value: what to push, and when."""

    hub_token: str | None = None
    """Refused: the token to push with."""

    hub_private_repo: bool | None = None
    """Whether a Space that Trackio makes is private; None leaves it to the Hub."""

    hub_always_push: bool = False
    """Refused: push even while the last push is going on."""

    hub_revision: str | None = None
    """Refused: the branch to push to."""

    trackio_space_id: str | None = None
    """The Space on the Hub that Trackio reports to; None for its local database."""

    trackio_bucket_id: str | None = None
    """The bucket on the Hub that the Space keeps its data in."""

    trackio_static_space_id: str | None = None
    """Refused: Trackio's Space for after the training."""
