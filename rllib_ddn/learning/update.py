"""One update, from top to bottom: of DDN (Algorithm 1, lines 15 to 24), or of a host alone.

A *host* is a value decomposition: an agent network, a mixer and their targets, which learn from the team's reward.
Alone it is VDN, QMIX, ...; in DDN its agent network is the leader (GGN), from which the follower (LPN) is distilled.
The *learners* "host", "follower" and "intrinsic" have one loss and one optimizer each.

The paper's symbols, for M rows (time steps of a batch of episodes), N agents and A actions:

==========================  =============================  ===========================================================
paper                       here                           meaning
==========================  =============================  ===========================================================
S, (o_i, u_i, i)            ``batch.state``, ``batch.z``   global state ``[M, S]``, local information ``[M, N, Z]``
S_hat_i, o_hat_i            ``fused``                      outputs of the fusion blocks of leader and follower
F                           ``features``                   output of the agent network's MLP
Q_i                         ``q``                          Q values of the agents ``[M, N, A]``
Q_global = IGM(Q_1 ... Q_n) ``host.mixer``                 Q_tot of a joint action ``[M]``
theta^-                     ``host.target_...``            weights of the targets
==========================  =============================  ===========================================================
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
from rllib_ddn.losses import Statistics, check_shape, masked_mean, merged
from rllib_ddn.networks.agent import AgentOutput
from rllib_ddn.networks.mixers.mixer import greedy_actions


@dataclass
class Update:
    """The result of :func:`compute_update`.

    Attributes:
        losses: a scalar to minimize for each learner that learns in this update.
        statistics: scalars by name, detached.
    """

    losses: dict[str, Tensor] = field(default_factory=dict)
    statistics: Statistics = field(default_factory=dict)

    def add(self, learner: str, loss: Tensor, statistics: Statistics) -> None:
        """Adds a learner's loss and its statistics.

        Raises:
            ValueError: there is a statistic of this name.
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
        host: agent network and mixer; in DDN the agent network is the leader.
        batch: episodes from replay.
        distillation: the follower and the terms of its loss.
        intrinsic: the intrinsic reward.
        learners: the active learners.
        add_intrinsic_reward: whether the intrinsic reward is added here; not where the env runner has added it.
        observe: whether the batch enters the intrinsic reward's running moments; not where the whole batch already has.
        executor: computes the follower's loss after the leader's unroll, or concurrently.

    Raises:
        ValueError: a custom component returns a wrong shape, or a statistic whose name is taken.
    """
    update, follower_loss = Update(), None

    # Lines 17 to 19: Q_i of the leader at all steps. (The executor calls the follower.)
    with torch.set_grad_enabled(HOST in learners):
        if distillation is not None and distillation.terms and FOLLOWER in learners:
            leader, follower_loss = executor(host.unroll, distillation, batch)
        else:
            leader = host.unroll(batch)

    # Line 20: r + r_I (Equations 9 and 10), before the intrinsic reward learns from these states.
    rewards = batch.rewards  # [M]
    if intrinsic is not None:
        if observe:
            intrinsic.observe(batch)
        if add_intrinsic_reward:
            bonus = intrinsic.reward(batch)  # [M]
            rewards = rewards + bonus
            update.statistics = merged(update.statistics, intrinsic.statistics(bonus, batch))

    # Line 22: L_global (Equation 5).
    if HOST in learners:
        update.add(HOST, *td_loss(host, leader, rewards, batch))

    # Lines 18 and 23: L_local = L_B + L_Q + L_F (Equations 6 and 7) of the follower's and the leader's unrolls.
    if follower_loss is not None:
        update.add(FOLLOWER, *follower_loss())

    # Line 24: L_I (Equation 8).
    if intrinsic is not None and INTRINSIC in learners and intrinsic.trained():
        update.add(INTRINSIC, *intrinsic.loss(batch))
    return update


def td_loss(host: Host, online: AgentOutput, rewards: Tensor, batch: TrainBatch) -> tuple[Tensor, Statistics]:
    """L_global = ``(r + gamma Q_tot(t + 1, argmax Q; theta^-) - Q_tot(t, u; theta))^2`` (Equation 5), plus the mixer's
    own terms.

    Args:
        host: agent network and mixer.
        online: the agent network's unroll of the batch.
        rewards: ``[M]``, with the intrinsic reward if there is one.
        batch: the batch.

    Returns:
        The loss of agent network and mixer, and its statistics.
    """
    with torch.no_grad():
        target = host.unroll_target(batch)
        # Double Q: the online network chooses the greedy actions, and the target network values them.
        greedy = greedy_actions((online if host.double_q else target).q, batch.action_mask)  # [M, N]
        greedy_value = host.target_mixer.bootstrap(batch.team(target, greedy))  # [M]
        check_shape(greedy_value, rewards, f"{type(host.mixer).__name__}'s value of a joint action")
        y = host.targets(rewards, greedy_value, batch, host.gamma)  # [M]
        check_shape(y, rewards, "what targets() returns")
    loss, statistics = host.mixer.loss(batch.team(online, batch.actions), y, greedy_value, batch.valid)
    return loss, merged({"loss_global": loss.detach(), "target_mean": masked_mean(y, batch.valid)}, statistics)
