"""The agent network: MLP, then GRU, then Q values (paper, section 4.2).

One network serves all agents. It runs over whole episodes when training and one step at a
time when acting, with the same weights and the same result.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rllib_ddn.networks.gru import gru


class LocalInput(nn.Module):
    """Builds ``z_i = (o_i, u_i, i)``: observation, one-hot last action, one-hot agent id.

    Args:
        num_agents: N.
        num_actions: A.
        obs_dim: O.
    """

    agent_id: Tensor
    actions: Tensor

    def __init__(self, num_agents: int, num_actions: int, obs_dim: int):
        super().__init__()
        self.obs_dim = obs_dim
        self.dim = obs_dim + num_actions + num_agents
        self.register_buffer("agent_id", torch.eye(num_agents), persistent=False)
        self.register_buffer("actions", torch.arange(num_actions), persistent=False)

    def forward(self, obs: Tensor, last_action: Tensor) -> Tensor:
        """
        Args:
            obs: ``[..., N, O]``, of any type.
            last_action: ``[..., N]`` integers; -1, the "action" before the first step, becomes
                a row of zeros.

        Returns:
            float32 ``[..., N, Z]`` with Z = O + A + N. The observations are its first O columns.
        """
        z = torch.empty(*obs.shape[:-1], self.dim, dtype=self.agent_id.dtype, device=obs.device)
        behind = self.obs_dim + len(self.actions)
        z[..., : self.obs_dim] = obs
        z[..., self.obs_dim : behind] = last_action.unsqueeze(-1) == self.actions
        z[..., behind:] = self.agent_id
        return z


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
        self.gru = nn.GRUCell(hidden_dim, hidden_dim)
        self.q_head = nn.Linear(hidden_dim, num_actions)

    def forward(
        self, x_hat: Tensor, hidden: Tensor | None = None, batch_sizes: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Runs over whole sequences, or makes one step.

        Args:
            x_hat: ``[M, D]``. With ``batch_sizes``: M packed rows, as torch packs sequences: all that
                exist at step 0, then all at step 1, and so on, the longest sequences first. Without:
                one step of M sequences.
            hidden: ``[R, H]``, the GRU's state of R sequences before the first step; None means zeros.
            batch_sizes: ``[T]`` int64 on the CPU, number of sequences that exist at each step.

        Returns:
            features f ``[M, H]``, Q values ``[M, A]``, the GRU's states ``[M, H]``, and its state after the
            last step, of the sequences that exist there.
        """
        features = torch.relu_(self.encoder(x_hat))
        sizes = [len(features)] if batch_sizes is None else batch_sizes.tolist()
        if hidden is None:
            hidden = features.new_zeros(sizes[0], self.hidden_dim)
        weights = (self.gru.weight_ih, self.gru.weight_hh, self.gru.bias_ih, self.gru.bias_hh)
        histories, hidden = gru(features, hidden, weights, sizes)
        return features, self.q_head(histories), histories, hidden
