"""Leader and follower: the two networks of the External Distillation Module (section 4.2).

All tensors are time-major: T steps of B episodes with N agents.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rllib_ddn.networks.agent import AgentNetwork
from rllib_ddn.networks.fusion import IndependentObservationBlock, PersonalizationFusionBlock, RawFusion

STATE_FUSIONS = ("personalized", "raw")


class AgentOutput(NamedTuple):
    """What an unroll of a team of agents gives.

    Attributes:
        fused: S_hat or o_hat, ``[T, B, N, D]``.
        features: f, the agent network's features before the GRU, ``[T, B, N, H]``.
        q: Q values, ``[T, B, N, A]``.
        hidden: the GRU's state after the last step, ``[B, N, H]``.
    """

    fused: Tensor
    features: Tensor
    q: Tensor
    hidden: Tensor


class GlobalGuidingNetwork(nn.Module):
    """The leader (GGN): sees the global state, personalized for each agent.

    Args:
        state_dim: S.
        local_dim: Z, the size of ``z_i``.
        num_actions: A.
        state_fusion: "personalized" (the Personalization Fusion Block) or "raw" (Table 3).
        embed_dim: D.
        hyper_dim: K.
        hidden_dim: H.
    """

    def __init__(
        self, state_dim: int, local_dim: int, num_actions: int, *, state_fusion: str, embed_dim: int, hyper_dim: int, hidden_dim: int
    ):
        super().__init__()
        self.raw = state_fusion == "raw"
        self.fusion: nn.Module = (
            RawFusion(state_dim + local_dim, embed_dim)
            if self.raw
            else PersonalizationFusionBlock(state_dim, local_dim, embed_dim, hyper_dim)
        )
        self.agent = AgentNetwork(embed_dim, num_actions, hidden_dim)

    def forward(self, z: Tensor, state: Tensor, hidden: Tensor | None = None) -> AgentOutput:
        """z ``[T, B, N, Z]``, state ``[T, B, S]``, hidden ``[B, N, H]`` or None for zeros."""
        if self.raw:
            everyone = state.unsqueeze(2).expand(*z.shape[:3], -1)  # [T, B, N, S]
            s_hat = self.fusion(everyone, z)
        else:
            s_hat = self.fusion(state.flatten(0, 1), z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return _unroll(self.agent, s_hat, hidden)


class LocalPolicyNetwork(nn.Module):
    """The follower (LPN): sees local information only. Takes no state, so that none can leak.

    Args:
        obs_dim: O.
        local_dim: Z, the size of ``z_i``.
        num_actions: A.
        state_fusion: "personalized" (the Independent Observation Block) or "raw" (Table 3).
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
            RawFusion(local_dim, embed_dim)
            if self.raw
            else IndependentObservationBlock(obs_dim, local_dim, embed_dim, hyper_dim)
        )
        self.agent = AgentNetwork(embed_dim, num_actions, hidden_dim)

    def forward(self, z: Tensor, obs: Tensor, hidden: Tensor | None = None) -> AgentOutput:
        """z ``[T, B, N, Z]``, obs ``[T, B, N, O]``, hidden ``[B, N, H]`` or None for zeros."""
        if self.raw:
            o_hat = self.fusion(z)
        else:
            o_hat = self.fusion(obs.flatten(0, 1), z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return _unroll(self.agent, o_hat, hidden)


def _unroll(agent: AgentNetwork, fused: Tensor, hidden: Tensor | None) -> AgentOutput:
    """Runs the agent network with the B * N agents as independent rows."""
    teams = fused.shape[1:3]  # [B, N]
    features, q, last = agent(fused.flatten(1, 2), None if hidden is None else hidden.flatten(0, 1))
    return AgentOutput(fused, features.unflatten(1, teams), q.unflatten(1, teams), last.unflatten(0, teams))


def greedy_actions(q: Tensor, action_mask: Tensor) -> Tensor:
    """The best available action: q ``[..., A]``, action_mask ``[..., A]`` bool; returns ``[...]``."""
    return q.masked_fill(~action_mask, -torch.inf).argmax(-1)
