"""Internal distillation: an intrinsic reward for new states (section 4.3)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rllib_ddn.learning.batch import TrainBatch
from rllib_ddn.losses import Statistics, check_shape, masked_mean
from rllib_ddn.networks.idm import InternalDistillationModule
from rllib_ddn.networks.mixers.mixer import TeamSizes


class IntrinsicReward(nn.Module, ABC):
    """A reward that is added to the env's: ``r_I = coefficient * m * novelty``, ``m ~ Bernoulli(mask_probability)``
    (Equation 9).

    A custom reward defines :meth:`novelty` and :meth:`loss`; its constructor takes these arguments, and further options
    from ``intrinsic_reward_config``.

    Args:
        sizes: of the team.
        coefficient: scale of the reward.
        mask_probability: mu, probability with which a step gets its reward.
        normalize: whether to divide the reward by the running standard deviation of the discounted sums of novelty,
            as RND does (Burda et al. 2018, section 2.4); before the first batch the reward is 0.
        gamma: discount of these sums.
    """

    count: Tensor
    mean: Tensor
    square: Tensor

    def __init__(
        self,
        sizes: TeamSizes,
        *,
        coefficient: float = 1.0,
        mask_probability: float = 0.75,
        normalize: bool = False,
        gamma: float = 0.99,
    ):
        super().__init__()
        self.coefficient, self.mask_probability = coefficient, mask_probability
        self.normalize, self.gamma = normalize, gamma
        # Running moments of the discounted sums: number of steps seen, mean, sum of squared deviations.
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("square", torch.zeros(()))

    @abstractmethod
    def novelty(self, batch: TrainBatch) -> Tensor:
        """The novelty of each row's state, ``[M]``, 0 or more."""

    def loss(self, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        """The loss by which known states lose their novelty, and its statistics; needed where there are trainable
        parameters."""
        raise NotImplementedError(f"{type(self).__name__} has parameters but no loss().")

    @torch.no_grad()
    def observe(self, batch: TrainBatch) -> None:
        """Updates the running moments by a train batch; does nothing unless ``normalize``."""
        if not self.normalize:
            return
        sums, valid = self._discounted_sums(self.novelty(batch), batch), batch.valid
        count = valid.sum()
        mean = masked_mean(sums, valid)
        square = masked_mean((sums - mean).square(), valid) * count
        total, delta = self.count + count, mean - self.mean
        self.square += square + delta.square() * self.count * count / total
        self.mean += delta * count / total
        self.count.copy_(total)

    def _discounted_sums(self, novelty: Tensor, batch: TrainBatch) -> Tensor:
        """``c(t) = gamma c(t - 1) + novelty(t)`` over each episode, ``[M]``."""
        sums = novelty.clone()
        steps = sums.split(batch.batch_sizes.tolist())
        for before, now in pairwise(steps):
            now.add_(before[: len(now)], alpha=self.gamma)
        return sums

    @torch.no_grad()
    def reward(self, batch: TrainBatch) -> Tensor:
        """r_I of each row (Equation 9), ``[M]``.

        Raises:
            ValueError: the novelty has another shape.
        """
        keep = (batch.uniform < self.mask_probability).float()
        reward = self.coefficient * keep * self.novelty(batch).detach()
        check_shape(reward, batch.rewards, f"{type(self).__name__}'s novelty")
        if self.normalize:
            std = (self.square / self.count.clamp(min=1.0)).sqrt()
            reward = torch.where(self.count > 0, reward / torch.where(std > 0, std, 1.0), 0.0)
        return reward

    def statistics(self, reward: Tensor, batch: TrainBatch) -> Statistics:
        """``intrinsic_reward_mean`` over the steps of a batch."""
        return {"intrinsic_reward_mean": masked_mean(reward, batch.valid)}

    def trained(self) -> list[nn.Parameter]:
        """The parameters of the intrinsic reward's optimizer."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


class IDM(IntrinsicReward):
    """The Internal Distillation Module: the novelty of a state is L_I, the error of a network that predicts the output
    of a fixed random one (Equation 8).

    Args:
        sizes: of the team.
        norm: the reading of Equation 8, whose 1/n before a squared norm leaves n open: "mean" divides the squared norm
            by the number of outputs (64), "sum" does not, so that the reward is 64 times larger.
        shared: the arguments of :class:`IntrinsicReward`.

    Raises:
        ValueError: the norm is unknown.
    """

    def __init__(self, sizes: TeamSizes, norm: str = "mean", **shared: Any):
        super().__init__(sizes, **shared)
        if norm not in ("mean", "sum"):
            raise ValueError(f"intrinsic_reward_config['norm'] is one of 'mean', 'sum'; got {norm!r}.")
        self.networks = InternalDistillationModule(sizes.state_dim, norm=norm)

    def novelty(self, batch: TrainBatch) -> Tensor:
        return self.networks(batch.state)

    def loss(self, batch: TrainBatch) -> tuple[Tensor, Statistics]:
        loss = masked_mean(self.novelty(batch), batch.valid)
        return loss, {"loss_idm": loss.detach()}
