"""The range of discounted returns sampled so far: a check for TD targets that diverge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rllib_ddn.learning.episodes import Episodes


@dataclass
class ReturnRange:
    """The smallest and the largest discounted return from any step of the episodes sampled.

    A truncated episode counts twice: with a return of 0 after its end, and continued forever with its mean reward, to
    which its targets may bootstrap. The range includes 0, near which Q values start.

    Attributes:
        low, high: the range, without intrinsic rewards that the learner adds.
        intrinsic: largest mean intrinsic reward of a step in the updates of a sampling round.
        episodes: number of episodes seen.
        updates: number of updates checked.
        left: whether the mean target has left the range.
    """

    low: float = 0.0
    high: float = 0.0
    intrinsic: float = 0.0
    episodes: int = 0
    updates: int = 0
    left: bool = False

    # No check before: a few episodes, and untrained networks, do not show the range.
    MIN_EPISODES = 100
    MIN_UPDATES = 1000

    def add(self, episodes: Episodes, gamma: float) -> None:
        """Extends the range by the returns of sampled episodes (see :mod:`rllib_ddn.learning.episodes`)."""
        rewards, length = episodes["rewards"].astype(float), episodes["length"]
        if not len(length):
            return
        continued = np.where(episodes["terminated"], 0.0, rewards.sum(1) / length * _horizon(gamma))
        following = np.stack([np.zeros(len(length)), continued])  # [2, E]
        returns = [following]
        for t in reversed(range(rewards.shape[1])):
            following = np.where(t < length, rewards[:, t] + gamma * following, following)
            returns.append(following)
        self.low, self.high = min(self.low, float(np.min(returns))), max(self.high, float(np.max(returns)))
        self.episodes += len(length)

    def check(self, mean_target: float, intrinsic: float, updates: int, gamma: float) -> bool:
        """Whether the mean target has, for the first time, left the range by more than its width (at least 1).

        Args:
            mean_target: of the updates after a sampling round.
            intrinsic: mean intrinsic reward that they added to a step; NaN without one.
            updates: number of these updates.
            gamma: discount.
        """
        self.updates += updates
        self.intrinsic = max(self.intrinsic, np.nan_to_num(intrinsic))
        high = self.high + self.intrinsic * _horizon(gamma)
        width = max(1.0, high - self.low)
        enough = self.episodes >= self.MIN_EPISODES and self.updates >= self.MIN_UPDATES
        if self.left or not enough or self.low - width <= mean_target <= high + width or np.isnan(mean_target):
            return False
        self.left = True
        return True


def _horizon(gamma: float) -> float:
    """The discounted return of a constant reward of 1, at most 1,000."""
    return 1 / max(1 - gamma, 0.001)
