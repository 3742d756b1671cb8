"""TD targets, from the bootstrap values of all rows of a batch. An estimator is a function ``(rewards, values, batch,
gamma)`` that returns the targets, as :func:`td_targets` does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rllib_ddn.learning.batch import TrainBatch

Targets = Callable[[Tensor, Tensor, TrainBatch, float], Tensor]


def td_targets(rewards: Tensor, values: Tensor, batch: TrainBatch, gamma: float, td_lambda: float = 0.0) -> Tensor:
    """``y = r + gamma (1 - terminated) ((1 - lambda) Q_tot^-(t + 1) + lambda y(t + 1))``.

    With lambda 0 these are the one-step targets of Equation 5. Otherwise they are lambda returns over the rest of
    the episode, in which every step bootstraps from the greedy joint action: Peng's Q(lambda) (Peng and
    Williams 1994), as PyMARL2 has it. ``terminated`` is 1 only where the game itself ended: an episode that a
    time limit truncated bootstraps from its final observation.

    Args:
        rewards: ``[M]``.
        values: ``[M]``, the target network's value of each row's greedy joint action.
        batch: the batch, which says how the rows are packed.
        gamma: discount.
        td_lambda: lambda in [0, 1].

    Returns:
        ``[M]``; rows that are not ``valid`` hold no target.
    """
    discount = gamma * (1.0 - batch.terminated)  # [M]
    following = values[batch.next]  # [M]
    if td_lambda == 0.0:
        return rewards + discount * following
    targets = values.clone()  # a row that nothing follows is what the row before it bootstraps from
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
