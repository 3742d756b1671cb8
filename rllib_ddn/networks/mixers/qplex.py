"""QPLEX: duplex dueling value decomposition (Wang et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rllib_ddn.networks.mixers.mixer import Mixer, TeamSizes, TeamValues, mlp


class QPLEXMixer(Mixer):
    """``Q_tot = sum_i V_i + sum_i lambda_i(s, u) A_i`` (Wang et al. 2020, section 3.2).

    The transformation ``Q_i <- w_i(s) Q_i + b_i(s)``, ``w_i > 0``, comes first; ``V_i`` is the
    largest transformed value of the available actions and ``A_i = Q_i - V_i <= 0``. As every ``lambda_i > 0``, the
    joint action of the individual argmaxes has the largest Q_tot: the whole class of IGM functions can be expressed.

    The advantages have no gradient: Q_tot is computed as ``sum_i Q_i + sum_i (lambda_i - 1) stop_gradient(A_i)``.

    Args:
        sizes: of the team.
        hypernet_dim: hidden width of the transformation's networks.
        num_kernels: K; lambda is the sum of K kernels ``|key(s)| sigmoid(agents_i(s)) sigmoid(actions_i(s, u))``.
        adv_hypernet_dim: hidden width of the kernels' three-layer networks.
    """

    def __init__(self, sizes: TeamSizes, hypernet_dim: int = 64, num_kernels: int = 10, adv_hypernet_dim: int = 64):
        super().__init__(sizes)
        agents, state = sizes.num_agents, sizes.state_dim
        self.num_actions = sizes.num_actions
        self.hyper_w = mlp(state, hypernet_dim, agents)
        self.hyper_b = mlp(state, hypernet_dim, agents)
        self.key = _Kernels(num_kernels, state, adv_hypernet_dim, 1)
        self.agents = _Kernels(num_kernels, state, adv_hypernet_dim, agents)
        self.actions = _Kernels(num_kernels, state + agents * sizes.num_actions, adv_hypernet_dim, agents)

    def forward(self, team: TeamValues) -> Tensor:
        w = self.hyper_w(team.state).abs() + 1e-10  # [M, N]
        q = w * team.q + self.hyper_b(team.state)
        advantage = (w * (team.q - team.best_q)).detach()
        return q.sum(-1) + ((self.importance(team) - 1.0) * advantage).sum(-1)

    def importance(self, team: TeamValues) -> Tensor:
        """``lambda_i(s, u) > 0``, ``[M, N]``."""
        one_hot = nn.functional.one_hot(team.actions, self.num_actions).flatten(-2).to(team.state.dtype)
        key = self.key(team.state).abs() + 1e-10  # [K, M, 1]
        agents = torch.sigmoid(self.agents(team.state))  # [K, M, N]
        actions = torch.sigmoid(self.actions(torch.cat([team.state, one_hot], -1)))
        return (key * agents * actions).sum(0)


class _Kernels(nn.Module):
    """K three-layer networks of one input, computed together: ``[M, X]`` to ``[K, M, Y]``."""

    def __init__(self, kernels: int, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.kernels = kernels
        self.first = nn.Linear(inputs, kernels * hidden)

        def start(*shape: int) -> nn.Parameter:  # as in nn.Linear(hidden, ...)
            return nn.Parameter(torch.empty(shape).uniform_(-1 / math.sqrt(hidden), 1 / math.sqrt(hidden)))

        self.second_weight, self.second_bias = start(kernels, hidden, hidden), start(kernels, 1, hidden)
        self.third_weight, self.third_bias = start(kernels, hidden, outputs), start(kernels, 1, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x)).unflatten(-1, (self.kernels, -1)).transpose(0, 1)  # [K, M, hidden]
        x = torch.relu(torch.baddbmm(self.second_bias, x, self.second_weight))
        return torch.baddbmm(self.third_bias, x, self.third_weight)
