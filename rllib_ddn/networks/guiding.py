"""Leader and follower, the two networks of the External Distillation Module (section 4.2), and a host's own.

Rows are time steps of teams: M of them, each with N agents. In training they are all steps of a
batch of episodes, packed (see :class:`rllib_ddn.networks.agent.AgentNetwork`), so that no
computation is spent on padding; in acting they are one step of M teams.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rllib_ddn.networks.agent import AgentNetwork
from rllib_ddn.networks.fusion import IndependentObservationBlock, PersonalizationFusionBlock, RawFusion

STATE_FUSIONS = ("personalized", "raw", "concatenated")


class AgentOutput(NamedTuple):
    """What an unroll of a team of agents gives.

    Attributes:
        fused: S_hat or o_hat, ``[M, N, D]``.
        features: f, the agent network's features before the GRU, ``[M, N, H]``.
        q: Q values, ``[M, N, A]``.
        histories: the GRU's states, ``[M, N, H]``.
        hidden: the GRU's state after the last step, ``[B, N, H]`` for the B teams that exist there.
    """

    fused: Tensor
    features: Tensor
    q: Tensor
    histories: Tensor
    hidden: Tensor


class GlobalGuidingNetwork(nn.Module):
    """The leader (GGN): sees the global state, personalized for each agent.

    Args:
        state_dim: S.
        local_dim: Z, the size of ``z_i``.
        num_actions: A.
        state_fusion: "personalized" (the Personalization Fusion Block), "raw" (Table 3), or "concatenated":
            the agent network sees ``z_i`` beside the personalized state (PTDE, Chen et al. 2024).
        embed_dim: D.
        hyper_dim: K.
        hidden_dim: H.
    """

    def __init__(
        self,
        state_dim: int,
        local_dim: int,
        num_actions: int,
        *,
        state_fusion: str,
        embed_dim: int,
        hyper_dim: int,
        hidden_dim: int,
    ):
        super().__init__()
        self.raw = state_fusion == "raw"
        self.fusion: nn.Module = (
            RawFusion(state_dim + local_dim, embed_dim)
            if self.raw
            else PersonalizationFusionBlock(state_dim, local_dim, embed_dim, hyper_dim)
        )
        self.concatenated = state_fusion == "concatenated"
        self.agent = AgentNetwork(embed_dim + local_dim * self.concatenated, num_actions, hidden_dim)

    def forward(self, z: Tensor, state: Tensor, hidden: Tensor | None = None, batch_sizes: Tensor | None = None) -> AgentOutput:
        """z ``[M, N, Z]``, state ``[M, S]``, hidden ``[B, N, H]`` or None for zeros, batch_sizes ``[T]``
        teams at each step, or None for one step."""
        if self.raw:
            everyone = state.unsqueeze(1).expand(*z.shape[:2], -1)  # [M, N, S]
            s_hat = self.fusion(everyone, z)
        else:
            s_hat = self.fusion(state, z)
        return _unroll(self.agent, s_hat, hidden, batch_sizes, z if self.concatenated else None)


class LocalPolicyNetwork(nn.Module):
    """The follower (LPN): sees local information only. Takes no state, so that none can leak.

    Args:
        obs_dim: O.
        local_dim: Z, the size of ``z_i``.
        num_actions: A.
        state_fusion: "personalized" (the Independent Observation Block), "raw" (Table 3) or "concatenated",
            as the leader's.
        embed_dim: D.
        hyper_dim: K.
        hidden_dim: H.
    """

    def __init__(
        self, obs_dim: int, local_dim: int, num_actions: int, *, state_fusion: str, embed_dim: int, hyper_dim: int, hidden_dim: int
    ):
        super().__init__()
        self.raw = state_fusion == "raw"
        self.fusion: nn.Module = (
            RawFusion(local_dim, embed_dim) if self.raw else IndependentObservationBlock(obs_dim, local_dim, embed_dim, hyper_dim)
        )
        self.concatenated = state_fusion == "concatenated"
        self.agent = AgentNetwork(embed_dim + local_dim * self.concatenated, num_actions, hidden_dim)

    def forward(self, z: Tensor, obs: Tensor, hidden: Tensor | None = None, batch_sizes: Tensor | None = None) -> AgentOutput:
        """z ``[M, N, Z]``, obs ``[M, N, O]``, hidden ``[B, N, H]`` or None for zeros, batch_sizes ``[T]``
        teams at each step, or None for one step."""
        o_hat = self.fusion(z) if self.raw else self.fusion(obs, z)
        return _unroll(self.agent, o_hat, hidden, batch_sizes, z if self.concatenated else None)


class LocalAgentNetwork(nn.Module):
    """The agent network of a host without distillation: sees ``z_i`` as it is. Takes a state, unused,
    because it stands where the leader does.

    Args:
        local_dim: Z, the size of ``z_i``.
        num_actions: A.
        hidden_dim: H.
    """

    def __init__(self, local_dim: int, num_actions: int, hidden_dim: int):
        super().__init__()
        self.agent = AgentNetwork(local_dim, num_actions, hidden_dim)

    def forward(self, z: Tensor, state: Tensor, hidden: Tensor | None = None, batch_sizes: Tensor | None = None) -> AgentOutput:
        """z ``[M, N, Z]``, hidden ``[B, N, H]`` or None for zeros, batch_sizes ``[T]`` teams at each step,
        or None for one step."""
        return _unroll(self.agent, z, hidden, batch_sizes)


def _unroll(
    agent: AgentNetwork, fused: Tensor, hidden: Tensor | None, batch_sizes: Tensor | None, z: Tensor | None = None
) -> AgentOutput:
    """Runs the agent network with all agents as independent rows, ``[M * N, ...]``; with z, on both."""
    agents = fused.shape[1]
    x_hat = fused if z is None else torch.cat([fused, z], -1)
    features, q, histories, last = agent(
        x_hat.flatten(0, 1),
        None if hidden is None else hidden.flatten(0, 1),
        None if batch_sizes is None else batch_sizes * agents,
    )
    split = lambda x: x.unflatten(0, (-1, agents))  # noqa: E731
    return AgentOutput(fused, split(features), split(q), split(histories), split(last))
