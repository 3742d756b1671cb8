"""QMIX: monotonic value decomposition (Rashid et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class QMixer(nn.Module):
    """``Q_tot = w_2(s) . ELU(w_1(s) q + b_1(s)) + b_2(s)`` with non-negative w_1 and w_2.

    The absolute value of the generated weights keeps ``dQ_tot / dQ_i >= 0`` (Rashid et al. 2020,
    section 4.1), which is enough for IGM (Equation 2 of the DDN paper).

    Args:
        num_agents: N.
        state_dim: S.
        embed_dim: width E of the mixing layer.
        hypernet_dim: hidden width of the two-layer hypernetworks that make w_1 and w_2.
    """

    def __init__(self, num_agents: int, state_dim: int, embed_dim: int = 32, hypernet_dim: int = 64):
        super().__init__()
        self.num_agents, self.embed_dim = num_agents, embed_dim

        def hypernet(outputs: int, hidden: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(state_dim, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

        self.hyper_w1 = hypernet(num_agents * embed_dim, hypernet_dim)
        self.hyper_b1 = nn.Linear(state_dim, embed_dim)
        self.hyper_w2 = hypernet(embed_dim, hypernet_dim)
        self.hyper_b2 = hypernet(1, embed_dim)

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """q ``[..., N]``, state ``[..., S]``; returns Q_tot ``[...]``."""
        w1 = self.hyper_w1(state).abs().unflatten(-1, (self.num_agents, self.embed_dim))  # [..., N, E]
        hidden = functional.elu(torch.einsum("...n,...ne->...e", q, w1) + self.hyper_b1(state))
        return (hidden * self.hyper_w2(state).abs()).sum(-1) + self.hyper_b2(state).squeeze(-1)
