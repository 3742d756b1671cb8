"""The host: a value decomposition, which is an agent network, a mixer, and the targets of both."""

from __future__ import annotations

import copy

import torch
from torch import nn

from rllib_ddn.learning.batch import TrainBatch
from rllib_ddn.learning.targets import Targets, td_targets
from rllib_ddn.networks.agent import AgentOutput, TeamNetwork
from rllib_ddn.networks.mixers.mixer import Mixer


class Host(nn.Module):
    """The base algorithm. Alone it is VDN, QMIX, ...; in DDN its agent network is the leader.

    Args:
        agent: the agent network.
        mixer: makes Q_tot of the agents' Q values.
        gamma: discount.
        double_q: whether the online network chooses the targets' actions; else the target network does.
        targets: makes TD targets (see :mod:`rllib_ddn.learning.targets`).
    """

    def __init__(
        self, agent: TeamNetwork, mixer: Mixer, *, gamma: float, double_q: bool, targets: Targets = td_targets
    ):
        super().__init__()
        self.gamma, self.double_q, self.targets = gamma, double_q, targets
        self.agent, self.mixer = agent, mixer
        self.target_agent = copy.deepcopy(agent).requires_grad_(False)
        self.target_mixer = copy.deepcopy(mixer).requires_grad_(False)

    def unroll(self, batch: TrainBatch) -> AgentOutput:
        """The agent network over a whole batch."""
        return self.agent(*self.agent.inputs(batch.z, batch.state), batch_sizes=batch.batch_sizes)

    def unroll_target(self, batch: TrainBatch) -> AgentOutput:
        """The target of the agent network over a whole batch."""
        return self.target_agent(*self.target_agent.inputs(batch.z, batch.state), batch_sizes=batch.batch_sizes)

    @torch.no_grad()
    def update_target(self, tau: float = 1.0) -> None:
        """``target += tau (online - target)`` for agent network and mixer; with tau 1 a hard copy (line 27)."""
        for online, target in ((self.agent, self.target_agent), (self.mixer, self.target_mixer)):
            if tau == 1.0:
                target.load_state_dict(online.state_dict())
                continue
            for source, moved in zip(online.parameters(), target.parameters(), strict=True):
                moved.lerp_(source, tau)
            for buffer, copied in zip(online.buffers(), target.buffers(), strict=True):
                copied.copy_(buffer)

    def trained(self) -> list[nn.Parameter]:
        """The parameters of the host's optimizer."""
        parts = (self.agent, self.mixer)
        return [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]
