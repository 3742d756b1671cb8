"""VDN: value decomposition by a sum (Sunehag et al. 2018)."""

from __future__ import annotations

from torch import Tensor

from rllib_ddn.networks.mixers.mixer import Mixer, TeamValues


class VDNMixer(Mixer):
    """``Q_tot = sum_i Q_i`` (Sunehag et al. 2018, section 3). Has no parameters."""

    def forward(self, team: TeamValues) -> Tensor:
        return team.q.sum(-1)
