"""External distillation: the follower, and the terms by which it learns from the leader (section 4.2).

``L_local = L_B + L_Q + L_F`` (Equations 6 and 7), each term with its own coefficient. A term compares what leader and
follower compute at the same steps: the fused inputs, the Q values, the features. Every term is a mean over the valid
steps of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from rllib_ddn.learning.batch import TrainBatch
from rllib_ddn.losses import Statistics, masked_mean, merged
from rllib_ddn.networks.agent import AgentOutput, TeamNetwork
from rllib_ddn.networks.mixers.mixer import greedy_actions


class DistillationTerm(ABC):
    """One term of L_local: the distance of the follower from the leader. It has no parameters.

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
            The scalar, which is logged as ``loss_<name>``, and further statistics by name.
        """


class BlockTerm(DistillationTerm):
    """L_B: squared difference of o_hat and S_hat, mean over D and over agents (Equation 6)."""

    def __call__(self, follower: AgentOutput, leader: AgentOutput, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        squares = (follower.fused - leader.fused).square()  # [M, N, D]
        return masked_mean(squares.mean((-2, -1)), batch.valid), {}


class KLTerm(DistillationTerm):
    """L_Q: ``KL(softmax(Q_leader / tau) || softmax(Q_follower / tau))`` over available actions, summed over agents
    (Equation 6)."""

    def __call__(self, follower: AgentOutput, leader: AgentOutput, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        student, teacher = (_logits(out.q, batch.action_mask, self.temperature) for out in (follower, leader))
        return masked_mean(_kl(teacher, student).sum(-1), batch.valid), {}


class FeatureTerm(DistillationTerm):
    """L_F: ``KL(softmax(F_leader) || softmax(F_follower))`` of the MLPs' features, summed over agents (Equation 6)."""

    def __call__(self, follower: AgentOutput, leader: AgentOutput, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        return masked_mean(_kl(leader.features, follower.features).sum(-1), batch.valid), {}


class SquaredTerm(DistillationTerm):
    """CTDS's regression: squared difference of the Q values, mean over available actions, summed over agents (Zhao et
    al. 2022)."""

    def __call__(self, follower: AgentOutput, leader: AgentOutput, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        mask = batch.action_mask & batch.valid.bool()[..., None, None]  # [M, N, A]
        squares = torch.where(mask, follower.q - leader.q, 0.0).square().sum(-1)  # [M, N]
        return (squares / mask.sum(-1).clamp(min=1)).sum() / batch.valid.sum(), {}


class ImitationTerm(DistillationTerm):
    """IGM-DA's imitation: cross-entropy of the leader's greedy action under the follower's ``softmax(Q / tau)`` over
    available actions, summed over agents. It is DAgger's supervised learning from an expert's labels (Ross et al. 2011;
    Hong et al. 2022)."""

    def __call__(self, follower: AgentOutput, leader: AgentOutput, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        expert = greedy_actions(leader.q, batch.action_mask).unsqueeze(-1)  # [M, N, 1]
        log_policy = _logits(follower.q, batch.action_mask, self.temperature).log_softmax(-1)  # [M, N, A]
        return -masked_mean(log_policy.gather(-1, expert).squeeze(-1).sum(-1), batch.valid), {}


TERMS: dict[str, type[DistillationTerm]] = {
    "block": BlockTerm,
    "kl": KLTerm,
    "squared": SquaredTerm,
    "imitation": ImitationTerm,
    "feature": FeatureTerm,
}


def _logits(q: Tensor, action_mask: Tensor, temperature: float) -> Tensor:
    """Logits of ``softmax(Q / tau)`` over the available actions, ``[M, N, A]``; all finite, as padding must be."""
    return (q / temperature).masked_fill(~action_mask, torch.finfo(q.dtype).min)


def _kl(teacher: Tensor, student: Tensor) -> Tensor:
    """``KL(softmax(teacher) || softmax(student))`` over the last axis, ``[M, N, C]`` to ``[M, N]``."""
    return kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True).sum(-1)


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
            value, further = term(follower, leader, batch)
            total = total + coefficient * value
            statistics = merged(merged(statistics, {f"loss_{name}": value}), further)
        return total, statistics

    def trained(self) -> list[nn.Parameter]:
        """The parameters of the follower's optimizer."""
        parts = [(name, parameter) for name, parameter in self.follower.named_parameters() if parameter.requires_grad]
        return [parameter for name, parameter in parts if self._trains_agent or not name.startswith("agent.")]
