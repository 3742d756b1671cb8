"""TD targets. An estimator is a function ``(rewards, values, batch, gamma)``; the default is :func:`td_targets`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rllib_ddn.learning.batch import TrainBatch

Targets = Callable[[Tensor, Tensor, TrainBatch, float], Tensor]


def td_targets(rewards: Tensor, values: Tensor, batch: TrainBatch, gamma: float, td_lambda: float = 0.0) -> Tensor:
    """``y = r + gamma (1 - terminated) ((1 - lambda) Q_tot^-(t + 1) + lambda y(t + 1))``.

    With lambda 0 these are the one-step targets of Equation 5; otherwise Peng's Q(lambda) (Peng and Williams 1994), as
    in PyMARL2: lambda returns in which every step bootstraps from the greedy joint action. ``terminated`` is 0 where a
    time limit truncated the episode, which then bootstraps from its final observation.

    Args:
        rewards: ``[M]``.
        values: ``[M]``, the target network's value of each row's greedy joint action.
        batch: the batch.
        gamma: discount.
        td_lambda: lambda in [0, 1].

    Returns:
        ``[M]``; rows that are not ``valid`` hold no target.
    """
    discount = gamma * (1.0 - batch.terminated)  # [M]
    following = values[batch.next]  # [M]
    if td_lambda == 0.0:
        return rewards + discount * following
    targets = values.clone()  # the row before a final observation bootstraps from its value
    sizes = batch.batch_sizes.tolist()
    end = len(values) - sizes[-1]
    later = targets[end:]
    for size, beyond in zip(reversed(sizes[:-1]), reversed(sizes[1:]), strict=True):
        rows = slice(end - size, end - size + beyond)  # the rows of this step that have one in the next
        mixed = torch.lerp(following[rows], later[:beyond], td_lambda)
        y = rewards[rows] + discount[rows] * mixed
        targets[rows] = torch.where(batch.valid[rows] > 0, y, values[rows])
        later, end = targets[end - size : end], end - size
    return targets
