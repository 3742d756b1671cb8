"""Leaders and their followers: the two networks of the External Distillation Module (section 4.2).

A leader sees the global state; its follower sees the agent's observation instead. ``LEADERS`` is the table of the key
``state_fusion``: one class for each leader, which names the class of its follower.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from rllib_ddn.networks.agent import AgentNetwork, TeamNetwork
from rllib_ddn.networks.fusion import IndependentObservationBlock, PersonalizationFusionBlock, RawFusion
from rllib_ddn.networks.mixers.mixer import TeamSizes


class FusingNetwork(TeamNetwork):
    """Base class of leaders and followers: a fusion block, then the agent network.

    Subclasses define :meth:`make_fusion` and :meth:`fuse`.

    Args:
        sizes: of the team.
        embed_dim: D, the size of the fusion block's output.
        hyper_dim: K, the hidden size of the hypernetwork that generates W.

    Attributes:
        sees_local: whether the agent network sees ``z_i`` beside the fusion block's output.
    """

    sees_local: ClassVar[bool] = False

    def __init__(self, sizes: TeamSizes, *, embed_dim: int, hyper_dim: int):
        super().__init__()
        self.obs_dim = sizes.obs_dim
        self.fusion = self.make_fusion(sizes, embed_dim, hyper_dim)
        self.agent = AgentNetwork(embed_dim + self.sees_local * sizes.local_dim, sizes.num_actions, sizes.hidden_dim)

    @abstractmethod
    def make_fusion(self, sizes: TeamSizes, embed_dim: int, hyper_dim: int) -> nn.Module:
        """The module that :meth:`fuse` uses."""

    def agent_input(self, fused: Tensor, z: Tensor) -> Tensor:
        return torch.cat([fused, z], -1) if self.sees_local else fused  # [M, N, D (+ Z)]


class Follower(FusingNetwork):
    """Acts on local information alone, ``fuse(z)``, and learns from its leader."""


class Leader(FusingNetwork):
    """Sees the global state, ``fuse(z, state)``, and learns from the team's reward.

    Attributes:
        follower: the class of its follower.
    """

    sees_state = True
    follower: ClassVar[type[Follower]]


class LocalPolicyNetwork(Follower):
    """The follower (LPN), with the Independent Observation Block."""

    def make_fusion(self, sizes: TeamSizes, embed_dim: int, hyper_dim: int) -> nn.Module:
        return IndependentObservationBlock(sizes.obs_dim, sizes.local_dim, embed_dim, hyper_dim)

    def fuse(self, *inputs: Tensor) -> Tensor:
        (z,) = inputs
        return self.fusion(z[..., : self.obs_dim], z)


class GlobalGuidingNetwork(Leader):
    """The leader (GGN), with the Personalization Fusion Block."""

    follower = LocalPolicyNetwork

    def make_fusion(self, sizes: TeamSizes, embed_dim: int, hyper_dim: int) -> nn.Module:
        return PersonalizationFusionBlock(sizes.state_dim, sizes.local_dim, embed_dim, hyper_dim)

    def fuse(self, *inputs: Tensor) -> Tensor:
        z, state = inputs
        return self.fusion(state, z)


class RawFollower(Follower):
    """The follower of :class:`RawLeader`: ``o_hat_i = Linear(z_i)``."""

    def make_fusion(self, sizes: TeamSizes, embed_dim: int, hyper_dim: int) -> nn.Module:
        return RawFusion(sizes.local_dim, embed_dim)

    def fuse(self, *inputs: Tensor) -> Tensor:
        (z,) = inputs
        return self.fusion(z)


class RawLeader(Leader):
    """The ablation "raw state" (Table 3): ``S_hat_i = Linear(S, z_i)``, without a hypernetwork."""

    follower = RawFollower

    def make_fusion(self, sizes: TeamSizes, embed_dim: int, hyper_dim: int) -> nn.Module:
        return RawFusion(sizes.state_dim + sizes.local_dim, embed_dim)

    def fuse(self, *inputs: Tensor) -> Tensor:
        z, state = inputs
        return self.fusion(state.unsqueeze(1).expand(*z.shape[:2], -1), z)  # [M, N, S] beside [M, N, Z]


class ConcatenatedFollower(LocalPolicyNetwork):
    """The follower of :class:`ConcatenatedLeader`: sees ``z_i`` beside o_hat."""

    sees_local = True


class ConcatenatedLeader(GlobalGuidingNetwork):
    """The agent network sees ``z_i`` beside the personalized state (PTDE, Chen et al. 2024)."""

    follower = ConcatenatedFollower
    sees_local = True


LEADERS: dict[str, type[Leader]] = {
    "personalized": GlobalGuidingNetwork,
    "raw": RawLeader,
    "concatenated": ConcatenatedLeader,
}
