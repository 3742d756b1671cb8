"""External distillation: the follower, and the terms by which it learns from the leader (section 4.2).

``L_local = L_B + L_Q + L_F`` (Equations 6 and 7), each term with a coefficient of its own. The terms compare
what leader and follower compute of the same steps: the fused inputs, the Q values, the features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from rllib_ddn import losses
from rllib_ddn.learning.batch import TrainBatch
from rllib_ddn.losses import Statistics, merged
from rllib_ddn.networks.agent import AgentOutput, TeamNetwork


class DistillationTerm(ABC):
    """One term of L_local: how far the follower is from the leader. It has no parameters of its own.

    Args:
        temperature: tau of ``softmax(Q / tau)``, for terms that have one.
    """

    def __init__(self, temperature: float = 1.0):
        self.temperature = temperature

    @abstractmethod
    def __call__(self, follower: AgentOutput, leader: AgentOutput, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        """
        Args:
            follower: its unroll of the batch.
            leader: its unroll of the batch, detached: no gradient of L_local reaches the leader.
            batch: the batch; only rows that are ``valid`` count.

        Returns:
            A scalar, and statistics of the term's own, which reach TensorBoard under their names. The
            term itself is logged as ``loss_<name>``.
        """


class BlockTerm(DistillationTerm):
    """L_B of Equation 6: see :func:`rllib_ddn.losses.block_loss`."""

    def __call__(self, follower: AgentOutput, leader: AgentOutput, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        return losses.block_loss(follower.fused, leader.fused, batch.valid), {}


class KLTerm(DistillationTerm):
    """L_Q of Equation 6: see :func:`rllib_ddn.losses.q_loss`."""

    def __call__(self, follower: AgentOutput, leader: AgentOutput, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        return losses.q_loss(follower.q, leader.q, batch.action_mask, batch.valid, self.temperature), {}


class SquaredTerm(DistillationTerm):
    """CTDS's regression of Q values: see :func:`rllib_ddn.losses.squared_q_loss`."""

    def __call__(self, follower: AgentOutput, leader: AgentOutput, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        return losses.squared_q_loss(follower.q, leader.q, batch.action_mask, batch.valid), {}


class ImitationTerm(DistillationTerm):
    """IGM-DA's imitation of greedy actions: see :func:`rllib_ddn.losses.imitation_loss`."""

    def __call__(self, follower: AgentOutput, leader: AgentOutput, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        return losses.imitation_loss(follower.q, leader.q, batch.action_mask, batch.valid, self.temperature), {}


class FeatureTerm(DistillationTerm):
    """L_F of Equation 6: see :func:`rllib_ddn.losses.feature_loss`."""

    def __call__(self, follower: AgentOutput, leader: AgentOutput, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        return losses.feature_loss(follower.features, leader.features, batch.valid), {}


TERMS: dict[str, type[DistillationTerm]] = {
    "block": BlockTerm,
    "kl": KLTerm,
    "squared": SquaredTerm,
    "imitation": ImitationTerm,
    "feature": FeatureTerm,
}


class Distillation(nn.Module):
    """The follower and its terms.

    Args:
        follower: the network that is trained; sees no state.
        terms: ``{name: (term, coefficient)}``. A term whose coefficient is 0 is not computed.
        trains_agent: whether the follower's agent network is trained here; not where it is the leader's.
    """

    def __init__(
        self, follower: TeamNetwork, terms: Mapping[str, tuple[DistillationTerm, float]], *, trains_agent: bool = True
    ):
        super().__init__()
        self.follower = follower
        self.terms = {name: (term, coefficient) for name, (term, coefficient) in terms.items() if coefficient}
        self._trains_agent = trains_agent

    def unroll(self, batch: TrainBatch) -> AgentOutput:
        """The follower over a whole batch."""
        return self.follower(*self.follower.inputs(batch.z, batch.state), batch_sizes=batch.batch_sizes)

    def loss(self, follower: AgentOutput, leader: AgentOutput, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        """L_local (Equation 7), with each term as the statistic ``loss_<name>``.

        Args:
            follower: :meth:`unroll` of the batch.
            leader: the leader's unroll of the batch.
            batch: the batch.
        """
        leader = AgentOutput(*(tensor.detach() for tensor in leader))
        total, statistics = follower.q.new_zeros(()), Statistics()
        for name, (term, coefficient) in self.terms.items():
            value, its_own = term(follower, leader, batch)
            total = total + coefficient * value
            statistics = merged(merged(statistics, {f"loss_{name}": value}), its_own)
        return total, statistics

    def trained(self) -> list[nn.Parameter]:
        """What the follower's optimizer trains."""
        parts = [(name, parameter) for name, parameter in self.follower.named_parameters() if parameter.requires_grad]
        return [parameter for name, parameter in parts if self._trains_agent or not name.startswith("agent.")]
