"""VDN: value decomposition by a sum (Sunehag et al. 2018)."""

from __future__ import annotations

from torch import Tensor, nn


class VDNMixer(nn.Module):
    """``Q_tot = sum_i Q_i`` (Sunehag et al. 2018, section 3). Has no parameters."""

    def __init__(self, num_agents: int, state_dim: int):
        super().__init__()

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """q ``[..., N]``, state ``[..., S]`` (unused); returns Q_tot ``[...]``."""
        return q.sum(-1)
