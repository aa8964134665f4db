from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from loopwright.runtime.wrapping import unwrap_model


class HasModule(nn.Module):
    """A user's model whose own submodule bears the name that wrappers use."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 2)


def test_a_model_of_the_users_is_never_opened() -> None:
    for model in (nn.Linear(2, 2), HasModule(), nn.Sequential(HasModule())):
        assert unwrap_model(model) is model


def test_wrappers_are_opened_in_any_order(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        model = HasModule()
        wrapped = nn.parallel.DistributedDataParallel(model)
        for outer in (wrapped, nn.DataParallel(model), torch.compile(model, backend="eager")):
            assert unwrap_model(outer) is model
        assert unwrap_model(torch.compile(wrapped, backend="eager")) is model
        compiled = torch.compile(model, backend="eager")
        assert unwrap_model(nn.parallel.DistributedDataParallel(compiled)) is model
    finally:
        dist.destroy_process_group()
