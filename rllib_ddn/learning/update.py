"""One update of DDN, or of a host alone, from top to bottom (Algorithm 1, lines 15 to 24).

A *learner* is what one optimizer trains: ``"host"`` (the leader and its mixer, or a host's agent network and its
mixer), ``"follower"`` and ``"intrinsic"``. Its loss, optimizer, gradient norm and learning rate go by its name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rllib_ddn.learning import FOLLOWER, HOST, INTRINSIC, LEARNERS
from rllib_ddn.learning.batch import TrainBatch
from rllib_ddn.learning.distillation import Distillation
from rllib_ddn.learning.executor import Executor, sequential
from rllib_ddn.learning.host import Host
from rllib_ddn.learning.intrinsic import IntrinsicReward
from rllib_ddn.losses import Statistics, merged


@dataclass
class Update:
    """What an update minimizes and reports.

    Attributes:
        losses: a scalar for each learner that learns in this update.
        statistics: scalars by name, detached.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=dict)

    def add(self, learner: str, loss: Tensor, statistics: Statistics) -> None:
        """Takes a learner's loss and its statistics in.

        Raises:
            ValueError: a statistic of this name is there already.
        """
        self.losses[learner] = loss
        self.statistics = merged(self.statistics, statistics)


def compute_update(
    host: Host,
    batch: TrainBatch,
    distillation: Distillation | None = None,
    intrinsic: IntrinsicReward | None = None,
    *,
    learners: Collection[str] = LEARNERS,
    add_intrinsic_reward: bool = True,
    observe: bool = True,
    executor: Executor = sequential,
) -> Update:
    """The losses of one update. No loss has gradients for another learner's parameters.

    Args:
        host: what learns from the team's reward.
        batch: episodes from replay.
        distillation: the follower, which learns from the host's agent network.
        intrinsic: the intrinsic reward.
        learners: who learns in this update.
        add_intrinsic_reward: whether the intrinsic reward is added here; not where the env runner has added it.
        observe: whether the batch enters the intrinsic reward's running moments; not where the whole batch already has.
        executor: runs the follower after the host, or beside it.

    Raises:
        ValueError: a part of the user's gives another shape than it should.
    """
    update, follower_loss = Update(), None

    with torch.set_grad_enabled(HOST in learners):  # line 17
        if distillation is not None and distillation.terms and FOLLOWER in learners:
            leader, follower_loss = executor(host.unroll, distillation, batch)
        else:
            leader = host.unroll(batch)

    rewards = batch.rewards
    if intrinsic is not None:
        if observe:
            intrinsic.observe(batch)
        if add_intrinsic_reward:
            bonus = intrinsic.reward(batch)  # Equation 9, before the predictor learns from these states
            rewards = rewards + bonus  # line 20, Equation 10
            update.statistics = merged(update.statistics, intrinsic.statistics(bonus, batch))

    if HOST in learners:
        update.add(HOST, *host.td_loss(leader, rewards, batch))  # line 22, Equation 5
    if follower_loss is not None:
        update.add(FOLLOWER, *follower_loss())  # line 23, Equations 6 and 7
    if intrinsic is not None and INTRINSIC in learners and intrinsic.trained():
        update.add(INTRINSIC, *intrinsic.loss(batch))  # line 24, Equation 8
    return update
