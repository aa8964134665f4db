"""Which arguments hold secrets, and what is shown in their place."""

from __future__ import annotations


def is_secret(name: str) -> bool:
    """Return whether the argument's value must never be shown."""
    return f"_{name}".endswith("_token") or any(word in name for word in ("password", "secret", "api_key"))


def mask(name: str) -> str:
    """Return what stands for the secret `name`, as transformers writes it."""
    return f"<{name.upper()}>"
