"""QMIX: monotonic value decomposition (Rashid et al. 2018, 2020b)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from rllib_ddn.networks.mixers.mixer import Mixer, TeamSizes, TeamValues, mlp


class QMixer(Mixer):
    """``Q_tot = w_2(s) . ELU(w_1(s) q + b_1(s)) + b_2(s)`` with non-negative w_1 and w_2.

    The absolute value of the generated weights keeps ``dQ_tot / dQ_i >= 0`` (Rashid et al. 2018,
    Equation 5 and section 4), which is enough for IGM (Equation 2 of the DDN paper).

    Args:
        sizes: of the team.
        embed_dim: width E of the mixing layer.
        hypernet_dim: hidden width of the two-layer hypernetworks that generate w_1 and w_2.
    """

    def __init__(self, sizes: TeamSizes, embed_dim: int = 32, hypernet_dim: int = 64):
        super().__init__(sizes)
        agents, state = sizes.num_agents, sizes.state_dim
        self.num_agents, self.embed_dim = agents, embed_dim
        self.hyper_w1 = mlp(state, hypernet_dim, agents * embed_dim)
        self.hyper_b1 = nn.Linear(state, embed_dim)
        self.hyper_w2 = mlp(state, hypernet_dim, embed_dim)
        self.hyper_b2 = mlp(state, embed_dim, 1)

    def forward(self, team: TeamValues) -> Tensor:
        q, state = team.q, team.state  # [M, N], [M, S]
        w1 = self.hyper_w1(state).abs().unflatten(-1, (self.num_agents, self.embed_dim))  # [M, N, E]
        hidden = functional.elu((q.unsqueeze(-1) * w1).sum(1) + self.hyper_b1(state))
        return (hidden * self.hyper_w2(state).abs()).sum(-1) + self.hyper_b2(state).squeeze(-1)
