"""Pushing to the Hugging Face Hub, which Loopwright leaves to a callback: every argument here is refused.

The fields exist because callbacks written for transformers read them.
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
    """Refused: whether the repository is private."""

    hub_always_push: bool = False
    """Refused: push even while the last push is going on."""

    hub_revision: str | None = None
    """Refused: the branch to push to."""

    trackio_space_id: str | None = None
    """Refused: Trackio's Space."""

    trackio_bucket_id: str | None = None
    """Refused: Trackio's bucket."""

    trackio_static_space_id: str | None = None
    """Refused: Trackio's Space for after the training."""
