"""The losses of DDN as pure functions of tensors (paper, Equations 5 to 8).

``valid`` marks real time steps with 1 and padding with 0. Every loss is a mean over the valid
steps; padded steps do not contribute. Teacher tensors are detached here, so that no
distillation loss can reach the leader.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Statistics = dict[str, Tensor]  # scalars by name, detached; none is dropped on its way to TensorBoard


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
    """
    Raises:
        ValueError: the shapes differ; they could be broadcast, and something else be learned.
    """
    if values.shape != like.shape:
        raise ValueError(
            f"{what} has the shape {list(values.shape)}, but there are {list(like.shape)} steps: give one number a step."
        )


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values [...]`` over the steps where ``valid [...]`` is 1."""
    return _zero_padding(values, valid).sum() / valid.sum()


def global_loss(q_tot: Tensor, target: Tensor, valid: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """L_global: the squared TD error (Equation 5, whose print lacks the square).

    Args:
        q_tot: ``[...]``, Q_tot of the actions taken.
        target: ``[...]``, see :mod:`rllib_ddn.learning.targets`; detached here.
        valid: ``[...]``.
        weight: ``[...]`` or a number, what each square counts (weighted QMIX).
    """
    return (weight * _zero_padding(q_tot - target.detach(), valid).square()).sum() / valid.sum()


def block_loss(o_hat: Tensor, s_hat: Tensor, valid: Tensor) -> Tensor:
    """L_B: squared difference of the two fusion blocks' outputs (Equation 6).

    Args:
        o_hat: ``[..., N, D]``, the follower's block.
        s_hat: ``[..., N, D]``, the leader's block; detached here.
        valid: ``[...]``.

    Mean over D and over agents.
    """
    return _mean_divergence(_squares, s_hat.detach(), o_hat, valid) / (o_hat.shape[-2] * o_hat.shape[-1])


def q_loss(
    follower_q: Tensor, leader_q: Tensor, action_mask: Tensor, valid: Tensor, temperature: float = 1.0
) -> Tensor:
    """L_Q: ``KL(softmax(Q_leader / tau) || softmax(Q_follower / tau))`` (Equation 6).

    Args:
        follower_q: ``[..., N, A]``.
        leader_q: ``[..., N, A]``; detached here.
        action_mask: ``[..., N, A]``, True where an action is available; only those count.
        valid: ``[...]``.
        temperature: tau.

    Summed over agents.
    """
    hide = ~action_mask.bool()
    lowest = torch.finfo(follower_q.dtype).min  # finite, and of probability 0 wherever an action is available
    teacher = (leader_q.detach() / temperature).masked_fill_(hide, lowest)
    student = (follower_q / temperature).masked_fill(hide, lowest)
    return _mean_divergence(_kl, teacher, student, valid)


def squared_q_loss(follower_q: Tensor, leader_q: Tensor, action_mask: Tensor, valid: Tensor) -> Tensor:
    """Squared difference of the Q values of available actions, their mean, summed over agents (CTDS, Zhao
    et al. 2022). Arguments as in :func:`q_loss`."""
    mask = action_mask & valid.bool()[..., None, None]
    difference = torch.where(mask, follower_q - leader_q.detach(), follower_q.new_zeros(()))
    mean = difference.square().sum(-1) / mask.sum(-1).clamp(min=1)  # [..., N]
    return mean.sum() / valid.sum()


def imitation_loss(
    follower_q: Tensor, leader_q: Tensor, action_mask: Tensor, valid: Tensor, temperature: float = 1.0
) -> Tensor:
    """Cross-entropy of the leader's greedy action under the follower's ``softmax(Q / tau)`` over available
    actions, summed over agents: DAgger's supervised learning from an expert's labels (Ross et al. 2011; IGM-DA,
    Hong et al. 2022). Arguments as in :func:`q_loss`."""
    hide = ~action_mask.bool()
    follower_q = _zero_padding(follower_q, valid[..., None, None])
    expert = leader_q.detach().masked_fill(hide, -torch.inf).argmax(-1, keepdim=True)  # [..., N, 1]
    log_policy = (follower_q / temperature).masked_fill(hide, torch.finfo(follower_q.dtype).min).log_softmax(-1)
    return -masked_mean(log_policy.gather(-1, expert).squeeze(-1).sum(-1), valid)


def feature_loss(follower_features: Tensor, leader_features: Tensor, valid: Tensor) -> Tensor:
    """L_F: ``KL(softmax(f_leader) || softmax(f_follower))`` of the MLPs' features (Equation 6).

    Args:
        follower_features: ``[..., N, H]``.
        leader_features: ``[..., N, H]``; detached here.
        valid: ``[...]``.

    Summed over agents.
    """
    return _mean_divergence(_kl, leader_features.detach(), follower_features, valid)


def idm_loss(error: Tensor, valid: Tensor) -> Tensor:
    """L_I: mean of the prediction errors ``[...]`` of the IDM (Equation 8)."""
    return masked_mean(error, valid)


def _zero_padding(values: Tensor, valid: Tensor) -> Tensor:
    """Zeros where not ``valid``. It comes before any square: 0 times the slope of a NaN is NaN."""
    return torch.where(valid.bool(), values, values.new_zeros(()))


def _log_softmax(x: Tensor) -> Tensor:
    """Over the last axis of ``[M, C]``; on a CPU, few classes are quicker as columns."""
    return torch.log_softmax(x, 1) if x.shape[1] >= 32 else torch.log_softmax(x.t().contiguous(), 0).t()


# Of rows ``teacher [M, C]`` and ``student [M, C]``: what each row counts ``[M]``, and its slope in the student ``[M, C]``.
Divergence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _kl(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """``KL(softmax(teacher) || softmax(student))``."""
    log_p, log_q = _log_softmax(teacher), _log_softmax(student)
    p = log_p.exp()
    return log_p.sub_(log_q).mul_(p).sum(-1), log_q.exp_().sub_(p)


def _squares(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """``|student - teacher|^2``."""
    difference = student - teacher
    return difference.square().sum(-1), difference.mul_(2)


def _mean_divergence(divergence: Divergence, teacher: Tensor, student: Tensor, valid: Tensor) -> Tensor:
    """A divergence over the last axis of ``[..., N, C]``, summed over N, mean over the valid steps ``[...]``."""
    weight = (valid / valid.sum()).unsqueeze(-1).expand(student.shape[:-1])  # [..., N]
    return _WeightedSum.apply(divergence, teacher.flatten(0, -2), student.flatten(0, -2), weight.reshape(-1))


class _WeightedSum(torch.autograd.Function):
    """``sum_m weight_m divergence(teacher_m, student_m)`` of rows; those of weight 0 may hold anything.

    The student's gradient needs what the value needs, so both are computed at once, in chunks of rows that stay in the
    cache.
    """

    CHUNK = 1024

    @staticmethod
    def forward(ctx, divergence: Divergence, teacher: Tensor, student: Tensor, weight: Tensor) -> Tensor:
        size = _WeightedSum.CHUNK if student.device.type == "cpu" else len(student)
        grad, total = torch.empty_like(student), student.new_zeros(())
        zero = student.new_zeros(())
        for t, s, w, g in zip(*(x.split(size) for x in (teacher, student, weight, grad)), strict=True):
            value, slope = divergence(t, s)
            total += torch.where(w > 0, w * value, zero).sum()
            w = w.unsqueeze(-1)
            torch.where(w > 0, slope.mul_(w), zero, out=g)
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):
        return None, None, ctx.saved_tensors[0] * grads[0], None
