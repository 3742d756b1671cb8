"""A value decomposition: an agent network, a mixer, their targets, and one TD loss."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rllib_ddn.learning.batch import TrainBatch
from rllib_ddn.learning.targets import Targets, td_targets
from rllib_ddn.losses import Statistics, check_shape, masked_mean, merged
from rllib_ddn.networks.agent import AgentOutput, TeamNetwork
from rllib_ddn.networks.mixers.mixer import Mixer, greedy_actions


class Host(nn.Module):
    """A host: alone it is VDN, QMIX, ...; with a leader as its agent network it is what DDN's follower learns from.

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

    def td_loss(self, online: AgentOutput, rewards: Tensor, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        """L_global (Equation 5) and what the mixer adds to it.

        Args:
            online: :meth:`unroll` of the batch.
            rewards: ``[M]``, with the intrinsic reward if there is one.
            batch: the batch.

        Returns:
            The loss of agent network and mixer, and its statistics.
        """
        with torch.no_grad():
            target = self.target_agent(*self.target_agent.inputs(batch.z, batch.state), batch_sizes=batch.batch_sizes)
            # Double Q: the online network chooses, the target network values.
            greedy = greedy_actions((online if self.double_q else target).q, batch.action_mask)  # [M, N]
            greedy_value = self.target_mixer.bootstrap(batch.team(target, greedy))  # [M]
            check_shape(greedy_value, rewards, f"{type(self.mixer).__name__}'s value of a joint action")
            y = self.targets(rewards, greedy_value, batch, self.gamma)
            check_shape(y, rewards, "what targets() returns")
        loss, statistics = self.mixer.loss(batch.team(online, batch.actions), y, greedy_value, batch.valid)
        return loss, merged({"loss_global": loss.detach(), "target_mean": masked_mean(y, batch.valid)}, statistics)

    @torch.no_grad()
    def update_target(self, tau: float = 1.0) -> None:
        """Moves the targets towards agent network and mixer: ``target += tau (online - target)``; with tau 1 a hard copy."""
        for online, target in ((self.agent, self.target_agent), (self.mixer, self.target_mixer)):
            if tau == 1.0:
                target.load_state_dict(online.state_dict())
                continue
            for source, moved in zip(online.parameters(), target.parameters(), strict=True):
                moved.lerp_(source, tau)
            for buffer, copied in zip(online.buffers(), target.buffers(), strict=True):
                copied.copy_(buffer)

    def trained(self) -> list[nn.Parameter]:
        """What the host's optimizer trains."""
        return [
            parameter for part in (self.agent, self.mixer) for parameter in part.parameters() if parameter.requires_grad
        ]
