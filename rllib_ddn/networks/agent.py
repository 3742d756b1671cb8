"""The agent network: MLP, then GRU, then Q values (paper, section 4.2).

All agents share one network. In training it runs over whole episodes, in acting over one step at a time, with the same
result.
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
            last_action: ``[..., n]`` integers; -1, before the first step, becomes a row of zeros.
            agent: ``[n]`` int64, the agents' ids; None for all N agents in order.

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
        """Computes whole sequences, or one step.

        Args:
            x_hat: ``[M, D]``. With ``batch_sizes``, M rows that are packed as torch packs sequences: those of step 0,
                then those of step 1, and so on, the longest sequences first. Without, one step of M sequences.
            hidden: ``[R, H]``, the GRU's state of R sequences before the first step; None means zeros.
            batch_sizes: ``[T]`` int64 on the CPU, number of sequences at each step.

        Returns:
            features f ``[M, H]``, Q values ``[M, A]``, the GRU's states ``[M, H]``, and its state after the last step,
            for the sequences that reach it.
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
    """The output of a :class:`TeamNetwork`.

    Attributes:
        fused: S_hat or o_hat, ``[M, N, D]``; z itself where nothing is fused.
        features: f, the agent network's features before the GRU, ``[M, N, H]``.
        q: Q values, ``[M, N, A]``.
        hidden_states: the GRU's states, ``[M, N, H]``.
        hidden: the GRU's state after the last step, ``[B, N, H]`` for the B teams that reach it.
    """

    fused: Tensor
    features: Tensor
    q: Tensor
    hidden_states: Tensor
    hidden: Tensor


class TeamNetwork(nn.Module, ABC):
    """Base class: a fusion of the inputs, then the agent network.

    Each of the M rows is a time step of a team of N agents. In training they are all steps of a batch of episodes,
    packed without padding (see :class:`AgentNetwork`); in acting, one step of M teams.

    Attributes:
        sees_state: whether the global state is an input. If not, it is never passed, and cannot leak.
        agent: the agent network.
    """

    sees_state = False
    agent: AgentNetwork

    def inputs(self, z: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """The inputs of :meth:`forward`, out of ``z [M, N, Z]`` and ``state [M, S]``."""
        return (z, state) if self.sees_state else (z,)

    @abstractmethod
    def fuse(self, *inputs: Tensor) -> Tensor:
        """The fused input ``[M, N, D]`` of :meth:`inputs`."""

    def agent_input(self, fused: Tensor, z: Tensor) -> Tensor:
        """The agent network's input ``[M, N, X]``; by default the output of :meth:`fuse`."""
        return fused

    def forward(self, *inputs: Tensor, hidden: Tensor | None = None, batch_sizes: Tensor | None = None) -> AgentOutput:
        """Computes whole episodes, or one step.

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
    """The agent network of a host without a leader: its input is the local information ``z_i``.

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
