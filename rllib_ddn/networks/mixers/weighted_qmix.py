"""Weighted QMIX: a monotone Q_tot whose squared TD errors are weighted (Rashid et al. 2020a)."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from rllib_ddn.losses import Statistics, global_loss
from rllib_ddn.networks.agent import AgentNetwork
from rllib_ddn.networks.mixers.mixer import TeamSizes, TeamValues, gather_q, mlp
from rllib_ddn.networks.mixers.qmix import QMixer


class WeightedQMixer(QMixer):
    """QMIX with weights w on its squared TD errors, and an unrestricted Q* from which the targets bootstrap:
    ``sum w(s, u) (Q_tot - y)^2 + sum (Q* - y)^2`` with ``y = r + gamma Q*^-(s', argmax Q_tot)`` (Rashid et al. 2020a,
    section 5).

    Q* has a second agent network on the local information ``z_i``, and a feed-forward mixer that need not be monotone.

    Args:
        sizes: of the team.
        alpha: weight in (0, 1] of joint actions that are not :meth:`trusted`. The paper has 0.1 for Predator-Prey, and
            for StarCraft 0.75 (CW) and 0.5 (OW).
        central_dim: width of Q*'s mixer.
        embed_dim: see :class:`QMixer`.
        hypernet_dim: see :class:`QMixer`.
    """

    def __init__(
        self, sizes: TeamSizes, alpha: float = 0.1, central_dim: int = 256, embed_dim: int = 32, hypernet_dim: int = 64
    ):
        super().__init__(sizes, embed_dim, hypernet_dim)
        if not 0 < alpha <= 1:
            raise ValueError(f"mixer_config['alpha'] is a weight above 0 and at most 1; got {alpha!r}.")
        self.alpha = alpha
        self.central_agent = AgentNetwork(sizes.local_dim, sizes.num_actions, sizes.hidden_dim)
        self.central_mixer = _CentralMixer(sizes, central_dim)

    def bootstrap(self, team: TeamValues) -> Tensor:
        """Q* of the joint action."""
        agents = team.z.shape[1]
        _, q, _, _ = self.central_agent(team.z.flatten(0, 1), batch_sizes=team.batch_sizes * agents)  # [M * N, A]
        return self.central_mixer(gather_q(q.unflatten(0, (-1, agents)), team.actions), team.state)

    def loss(self, team: TeamValues, target: Tensor, greedy_value: Tensor, valid: Tensor) -> tuple[Tensor, Statistics]:
        """The weighted L_global, and Q*'s squared error."""
        q_tot = self(team)
        with torch.no_grad():
            weight = torch.where(self.trusted(team, q_tot, target, greedy_value), 1.0, self.alpha)
        loss = global_loss(q_tot, target, valid, weight) + global_loss(self.bootstrap(team), target, valid)
        return loss, self.statistics(q_tot, valid)

    @abstractmethod
    def trusted(self, team: TeamValues, q_tot: Tensor, target: Tensor, greedy_value: Tensor) -> Tensor:
        """Joint actions whose errors have the weight 1, ``[M]`` bool."""


class CWQMixer(WeightedQMixer):
    """Centrally-weighted QMIX: trusts the greedy joint action, and those whose target is above its Q* (Rashid et al.
    2020a, CW-QMIX)."""

    def trusted(self, team: TeamValues, q_tot: Tensor, target: Tensor, greedy_value: Tensor) -> Tensor:
        return (team.actions == team.greedy).all(-1) | (target > greedy_value)


class OWQMixer(WeightedQMixer):
    """Optimistically-weighted QMIX: trusts a joint action whose value is underestimated (Rashid et al.
    2020a, OW-QMIX)."""

    def trusted(self, team: TeamValues, q_tot: Tensor, target: Tensor, greedy_value: Tensor) -> Tensor:
        return q_tot < target


class _CentralMixer(nn.Module):
    """``f(s, q) + V(s)``, four and two layers, without any restriction."""

    def __init__(self, sizes: TeamSizes, dim: int):
        super().__init__()
        self.mix = mlp(sizes.num_agents + sizes.state_dim, dim, dim, dim, 1)
        self.value = mlp(sizes.state_dim, dim, 1)

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """q ``[M, N]``, state ``[M, S]``; returns ``[M]``."""
        return (self.mix(torch.cat([state, q], -1)) + self.value(state)).squeeze(-1)
