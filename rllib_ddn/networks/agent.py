"""The agent network: MLP, then GRU, then Q values (paper, section 4.2).

One network serves all agents. It runs over whole episodes when training and one step at a
time when acting, with the same weights and the same result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class LocalInput(nn.Module):
    """Builds ``z_i = (o_i, u_i, i)``: observation, one-hot last action, one-hot agent id.

    Args:
        num_agents: N.
        num_actions: A.
        obs_dim: O.
    """

    def __init__(self, num_agents: int, num_actions: int, obs_dim: int):
        super().__init__()
        self.num_actions = num_actions
        self.dim = obs_dim + num_actions + num_agents
        self.register_buffer("agent_id", torch.eye(num_agents), persistent=False)

    def forward(self, obs: Tensor, last_action: Tensor) -> Tensor:
        """
        Args:
            obs: ``[..., N, O]``.
            last_action: ``[..., N]`` integers; -1, the "action" before the first step, becomes
                a row of zeros.

        Returns:
            ``[..., N, Z]`` with Z = O + A + N.
        """
        # One class more than there are actions takes the -1 and is cut off again.
        one_hot = functional.one_hot((last_action + 1).long(), self.num_actions + 1)[..., 1:]
        agent_id = self.agent_id.expand(*obs.shape[:-1], -1)
        return torch.cat([obs, one_hot.to(obs.dtype), agent_id], -1)


class AgentNetwork(nn.Module):
    """``f = ReLU(Linear(x_hat))``, GRU, ``Q = Linear(GRU)``; f is F of Equation 6.

    Args:
        input_dim: D, the size of the fusion block's output.
        num_actions: A.
        hidden_dim: H, the size of f and of the GRU's state.
    """

    def __init__(self, input_dim: int, num_actions: int, hidden_dim: int = 64):
        super().__init__()
        self.hidden_dim = hidden_dim
        self.encoder = nn.Linear(input_dim, hidden_dim)
        self.gru = nn.GRU(hidden_dim, hidden_dim)
        self.q_head = nn.Linear(hidden_dim, num_actions)

    def forward(self, x_hat: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            x_hat: ``[T, R, D]``: T time steps of R = B * N independent rows.
            hidden: ``[R, H]``, the GRU's state before the first step; None means zeros.

        Returns:
            features f ``[T, R, H]``, Q values ``[T, R, A]``, and the GRU's state after the last
            step ``[R, H]``.
        """
        features = torch.relu(self.encoder(x_hat))
        if len(features) == 1:  # acting: one step, without the overhead of a sequence kernel
            if hidden is None:
                hidden = features.new_zeros(features.shape[1:])
            hidden = torch.gru_cell(features[0], hidden, *self.gru.all_weights[0])
            return features, self.q_head(hidden).unsqueeze(0), hidden
        memory, last = self.gru(features, None if hidden is None else hidden.unsqueeze(0))
        return features, self.q_head(memory), last.squeeze(0)
