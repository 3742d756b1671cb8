"""Averaged weights, for evaluation and deployment.

A snapshot of a network in training may play badly, and more often so for a follower, which chases a moving leader. The
average of recent snapshots is steadier (Polyak and Juditsky 1992; Tarvainen and Valpola 2017 for a teacher).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rllib_ddn.networks.agent import TeamNetwork


class AveragedNetworks(AveragedModel):
    """Copies of networks with exponential moving averages of their weights. Modules that networks share are shared by
    the copies.

    After the n-th update (n from 0) ``w_avg += (1 - d)(w - w_avg)`` with ``d = min(decay, (1 + n) / (10 + n))``, which
    forgets the random first weights sooner; after the first update ``w_avg = w``. Buffers are copied.

    Args:
        networks: by name.
        decay: in [0, 1); the average reaches back about ``1 / (1 - decay)`` updates.
    """

    module: nn.ModuleDict
    n_averaged: Tensor

    def __init__(self, networks: Mapping[str, TeamNetwork], decay: float):
        def move(averages: Any, weights: Any, n: Tensor) -> None:
            get_ema_multi_avg_fn(min(decay, (1 + int(n)) / (10 + int(n))))(averages, weights, n)

        super().__init__(nn.ModuleDict(networks), multi_avg_fn=move)  # type: ignore[arg-type]
        self.requires_grad_(False)

    @property
    def networks(self) -> dict[str, TeamNetwork]:
        """The averaged networks, by name."""
        return dict(self.module.items())  # type: ignore[arg-type]

    def update(self, networks: Mapping[str, TeamNetwork]) -> None:
        """Moves the averages towards the networks; called after each update."""
        self.update_parameters(nn.ModuleDict(networks))

    def restart(self, networks: Mapping[str, TeamNetwork]) -> None:
        """Starts the averages from these weights."""
        self.module.load_state_dict(nn.ModuleDict(networks).state_dict())
        self.n_averaged.zero_()
