"""The interface of mixers, and their inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from rllib_ddn.losses import Statistics, global_loss, masked_mean
from rllib_ddn.team import TeamSpec


class TeamSizes(NamedTuple):
    """The sizes of a team, from which its networks are built.

    Attributes:
        num_agents: N.
        num_actions: A.
        state_dim: S.
        obs_dim: O, the size of an agent's observation.
        hidden_dim: H, the size of the agent network's GRU.
    """

    num_agents: int
    num_actions: int
    state_dim: int
    obs_dim: int
    hidden_dim: int

    @classmethod
    def of(cls, spec: TeamSpec, hidden_dim: int) -> TeamSizes:
        """The sizes of this team, with the GRU's."""
        return cls(spec.num_agents, spec.num_actions, spec.state_dim, spec.obs_dim, hidden_dim)

    @property
    def local_dim(self) -> int:
        """Z, the size of ``z_i = (o_i, u_i, i)``."""
        return self.obs_dim + self.num_actions + self.num_agents


@dataclass
class TeamValues:
    """M time steps of a team: the agents' Q values, and a joint action.

    Attributes:
        q_values: ``[M, N, A]``, of all actions.
        actions: ``[M, N]`` int64, the joint action u.
        action_mask: ``[M, N, A]`` bool, the available actions.
        state: ``[M, S]``.
        z: ``[M, N, Z]``, the local information.
        hidden_states: ``[M, N, H]``, the GRU's states, which stand for the agents' histories tau_i.
        batch_sizes: ``[T + 1]`` int64 on the CPU: how the M rows are packed (see
            :class:`rllib_ddn.networks.agent.AgentNetwork`).
    """

    q_values: Tensor
    actions: Tensor
    action_mask: Tensor
    state: Tensor
    z: Tensor
    hidden_states: Tensor
    batch_sizes: Tensor

    @cached_property
    def q(self) -> Tensor:
        """``Q_i(tau_i, u_i)`` of the joint action, ``[M, N]``."""
        return gather_q(self.q_values, self.actions)

    @cached_property
    def greedy(self) -> Tensor:
        """Each agent's best available action, ``[M, N]``."""
        return greedy_actions(self.q_values, self.action_mask)

    @cached_property
    def best_q(self) -> Tensor:
        """``V_i = max Q_i`` over the available actions, ``[M, N]``."""
        return gather_q(self.q_values, self.greedy)


class Mixer(nn.Module, ABC):
    """Computes Q_tot from the agents' Q values (paper, Equations 1 and 2).

    A mixer is built as ``Mixer(sizes, **mixer_config)``. The arguments after ``sizes`` are its options; one that is
    annotated as ``int`` is a size from 1 to 8,192, and is checked before the mixer is built. Most mixers only define
    :meth:`forward`. The host keeps a target copy, and one optimizer trains mixer and agent network.

    Attributes:
        hosts_ddn: whether DDN can be built on it.
    """

    hosts_ddn = True

    def __init__(self, sizes: TeamSizes):
        super().__init__()

    @abstractmethod
    def forward(self, team: TeamValues) -> Tensor:
        """``Q_tot(tau, u)``, ``[M]``."""

    def bootstrap(self, team: TeamValues) -> Tensor:
        """The value of ``team.actions`` from which TD targets bootstrap, ``[M]``; called on the target mixer with the
        target network's values. By default Q_tot."""
        return self(team)

    def loss(self, team: TeamValues, target: Tensor, greedy_value: Tensor, valid: Tensor) -> tuple[Tensor, Statistics]:
        """The loss of agent network and mixer, by default L_global (Equation 5).

        Args:
            team: the online network's values and the joint action taken.
            target: ``[M]``, the TD target y.
            greedy_value: ``[M]``, :meth:`bootstrap` of the greedy joint action at the same step.
            valid: ``[M]``, 1 at steps, 0 elsewhere.

        Returns:
            The loss, and statistics by name: ``q_tot_mean``, and any that the mixer adds.
        """
        q_tot = self(team)
        return global_loss(q_tot, target, valid), self.statistics(q_tot, valid)

    @staticmethod
    def statistics(q_tot: Tensor, valid: Tensor) -> Statistics:
        """``q_tot_mean`` over the valid steps."""
        return {"q_tot_mean": masked_mean(q_tot.detach(), valid)}


def gather_q(q_values: Tensor, actions: Tensor) -> Tensor:
    """``q_values [..., A]`` of ``actions [...]``, ``[...]``."""
    return q_values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def greedy_actions(q: Tensor, action_mask: Tensor) -> Tensor:
    """The best available action: q ``[..., A]``, action_mask ``[..., A]`` bool; returns ``[...]``."""
    return q.masked_fill(~action_mask, -float("inf")).argmax(-1)


def mlp(*dims: int) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(dims):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
