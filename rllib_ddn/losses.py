"""What all losses share: means over the valid steps, the squared TD error (Equation 5), and statistics by name.

``valid`` is 1 at time steps and 0 at final observations and padding, which do not contribute to a loss. The values of
padding must be finite, as networks leave them.
"""

from __future__ import annotations

import torch
from torch import Tensor

Statistics = dict[str, Tensor]  # scalars by name, detached; all of them reach TensorBoard


def merged(statistics: Statistics, more: Statistics) -> Statistics:
    """Both, as detached float tensors.

    Raises:
        ValueError: they share a name.
    """
    for name in more:
        if name in statistics:
            raise ValueError(f"two parts of an update log the statistic {name!r}: give one of them another name.")
    return {**statistics, **{name: torch.as_tensor(value).detach().float() for name, value in more.items()}}


def check_shape(values: Tensor, like: Tensor, what: str) -> None:
    """Refuses what would be broadcast: the wrong thing would be learned in silence.

    Raises:
        ValueError: the shapes differ.
    """
    if values.shape != like.shape:
        raise ValueError(
            f"{what} has the shape {list(values.shape)}, but there are {list(like.shape)} steps: one number a step."
        )


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values [M]`` over the steps where ``valid [M]`` is 1."""
    return _zero_padding(values, valid).sum() / valid.sum()


def global_loss(q_tot: Tensor, target: Tensor, valid: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """L_global: the squared TD error (Equation 5, whose print lacks the square).

    Args:
        q_tot: ``[M]``, Q_tot of the actions taken.
        target: ``[M]``, see :mod:`rllib_ddn.learning.targets`; detached here.
        valid: ``[M]``.
        weight: ``[M]`` or a number, of each square (weighted QMIX).

    Raises:
        ValueError: q_tot has another shape than the targets.
    """
    check_shape(q_tot, target, "the mixer's Q_tot")
    return (weight * _zero_padding(q_tot - target.detach(), valid).square()).sum() / valid.sum()


def _zero_padding(values: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid.bool(), values, values.new_zeros(()))
