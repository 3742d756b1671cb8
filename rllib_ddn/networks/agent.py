"""The agent network: MLP, then GRU, then Q values (paper, section 4.2).

One network serves all agents. It runs over whole episodes when training and one step at a
time when acting, with the same weights and the same result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rllib_ddn.networks.gru import gru


class LocalInput(nn.Module):
    """Builds ``z_i = (o_i, u_i, i)``: observation, one-hot last action, one-hot agent id.

    Args:
        num_agents: N.
        num_actions: A.
    """

    agent_id: Tensor
    actions: Tensor

    def __init__(self, num_agents: int, num_actions: int):
        super().__init__()
        self.register_buffer("agent_id", torch.eye(num_agents), persistent=False)
        self.register_buffer("actions", torch.arange(num_actions), persistent=False)

    def forward(self, obs: Tensor, last_action: Tensor, agent: Tensor | None = None) -> Tensor:
        """
        Args:
            obs: ``[..., n, O]`` of n agents, of any type.
            last_action: ``[..., n]`` integers; -1, the "action" before the first step, becomes
                a row of zeros.
            agent: ``[n]`` int64, which of the N agents they are; None where they are all, in order.

        Returns:
            float32 ``[..., n, Z]`` with Z = O + A + N. The observations are its first O columns.
        """
        number = self.agent_id if agent is None else self.agent_id[agent]
        parts = (obs.to(number.dtype), last_action.unsqueeze(-1) == self.actions, number.expand(*obs.shape[:-1], -1))
        return torch.cat(parts, -1)


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
        if batch_sizes is None:
            hidden = self.gru(features, hidden)
            return features, self.q_head(hidden), hidden, hidden
        sizes = batch_sizes.tolist()
        if hidden is None:
            hidden = features.new_zeros(sizes[0], self.hidden_dim)
        weights = (self.gru.weight_ih, self.gru.weight_hh, self.gru.bias_ih, self.gru.bias_hh)
        hidden_states, hidden = gru(features, hidden, weights, sizes)
        return features, self.q_head(hidden_states), hidden_states, hidden


class AgentOutput(NamedTuple):
    """What an unroll of a team of agents gives.

    Attributes:
        fused: S_hat or o_hat, ``[M, N, D]``; z itself where nothing is fused.
        features: f, the agent network's features before the GRU, ``[M, N, H]``.
        q: Q values, ``[M, N, A]``.
        hidden_states: the GRU's states, ``[M, N, H]``.
        hidden: the GRU's state after the last step, ``[B, N, H]`` for the B teams that exist there.
    """

    fused: Tensor
    features: Tensor
    q: Tensor
    hidden_states: Tensor
    hidden: Tensor


class TeamNetwork(nn.Module, ABC):
    """What all networks of a team share: a fusion of the inputs, then the agent network.

    Rows are time steps of teams: M of them, each with N agents. In training they are all steps of a
    batch of episodes, packed (see :class:`AgentNetwork`), so that no computation is spent on padding; in
    acting they are one step of M teams.

    Attributes:
        sees_state: whether the global state is among its inputs. Where it is not, it is never passed, so
            that none can leak.
        agent: the agent network.
    """

    sees_state = False
    agent: AgentNetwork

    def inputs(self, z: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """What :meth:`forward` takes of ``z [M, N, Z]`` and ``state [M, S]``."""
        return (z, state) if self.sees_state else (z,)

    @abstractmethod
    def fuse(self, *inputs: Tensor) -> Tensor:
        """The fused input ``[M, N, D]`` of :meth:`inputs`."""

    def agent_input(self, fused: Tensor, z: Tensor) -> Tensor:
        """What the agent network sees, ``[M, N, X]``; by default what :meth:`fuse` gives."""
        return fused

    def forward(self, *inputs: Tensor, hidden: Tensor | None = None, batch_sizes: Tensor | None = None) -> AgentOutput:
        """Runs over whole episodes, or makes one step.

        Args:
            inputs: see :meth:`inputs`.
            hidden: ``[B, N, H]``, the GRU's state before the first step; None means zeros.
            batch_sizes: ``[T]`` int64 on the CPU, number of teams at each step; None for one step.
        """
        fused = self.fuse(*inputs)
        teams, agents = fused.shape[:2]
        features, q, hidden_states, last = self.agent(
            self.agent_input(fused, inputs[0]).flatten(0, 1),  # [M * N, X]: all agents as independent rows
            None if hidden is None else hidden.flatten(0, 1),
            None if batch_sizes is None else batch_sizes * agents,
        )
        features, q, hidden_states = (rows.unflatten(0, (teams, agents)) for rows in (features, q, hidden_states))
        last = hidden_states if batch_sizes is None else last.unflatten(0, (-1, agents))
        return AgentOutput(fused, features, q, hidden_states, last)


class LocalAgent(TeamNetwork):
    """The agent network of a host alone: sees the local information ``z_i`` as it is.

    Args:
        local_dim: Z.
        num_actions: A.
        hidden_dim: H.
    """

    def __init__(self, local_dim: int, num_actions: int, hidden_dim: int):
        super().__init__()
        self.agent = AgentNetwork(local_dim, num_actions, hidden_dim)

    def fuse(self, *inputs: Tensor) -> Tensor:
        (z,) = inputs
        return z
