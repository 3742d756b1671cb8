"""The losses of DDN as pure functions of tensors (paper, Equations 5 to 8).

``valid`` marks real time steps with 1 and padding with 0. Every loss is a mean over the valid
steps: what stands in padded steps never matters. Teacher tensors are detached here, so that no
distillation loss can reach the leader.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values [...]`` over the steps where ``valid [...]`` is 1."""
    return torch.where(valid.bool(), values, torch.zeros_like(values)).sum() / valid.sum()


def td_target(reward: Tensor, terminated: Tensor, next_q_tot: Tensor, gamma: float) -> Tensor:
    """``y = r_tot + gamma (1 - terminated) Q_tot^-(t + 1)``, all ``[...]`` (Equation 5).

    ``terminated`` is 1 only where the game itself ended: an episode that was cut off by a time
    limit bootstraps from its final observation.
    """
    return reward + gamma * (1.0 - terminated) * next_q_tot


def global_loss(q_tot: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """L_global: the squared TD error (Equation 5, whose print lacks the square).

    Args:
        q_tot: ``[...]``, Q_tot of the actions taken.
        target: ``[...]``, see :func:`td_target`; detached here.
        valid: ``[...]``.
    """
    return masked_mean((q_tot - target.detach()).square(), valid)


def block_loss(o_hat: Tensor, s_hat: Tensor, valid: Tensor) -> Tensor:
    """L_B: squared difference of the two fusion blocks' outputs (Equation 6).

    Args:
        o_hat: ``[..., N, D]``, the follower's block.
        s_hat: ``[..., N, D]``, the leader's block; detached here.
        valid: ``[...]``.

    Mean over D and over agents.
    """
    return masked_mean((o_hat - s_hat.detach()).square().mean((-2, -1)), valid)


def q_loss(follower_q: Tensor, leader_q: Tensor, action_mask: Tensor, valid: Tensor, temperature: float = 1.0) -> Tensor:
    """L_Q: ``KL(softmax(Q_leader / tau) || softmax(Q_follower / tau))`` (Equation 6).

    Args:
        follower_q: ``[..., N, A]``.
        leader_q: ``[..., N, A]``; detached here.
        action_mask: ``[..., N, A]``, True where an action is available; only those count.
        valid: ``[...]``.
        temperature: tau.

    Summed over agents.
    """
    teacher = _masked_log_softmax(leader_q.detach() / temperature, action_mask)
    student = _masked_log_softmax(follower_q / temperature, action_mask)
    return masked_mean(_kl(teacher, student).sum(-1), valid)


def feature_loss(follower_features: Tensor, leader_features: Tensor, valid: Tensor) -> Tensor:
    """L_F: ``KL(softmax(f_leader) || softmax(f_follower))`` of the MLPs' features (Equation 6).

    Args:
        follower_features: ``[..., N, H]``.
        leader_features: ``[..., N, H]``; detached here.
        valid: ``[...]``.

    Summed over agents.
    """
    teacher = torch.log_softmax(leader_features.detach(), -1)
    student = torch.log_softmax(follower_features, -1)
    return masked_mean(_kl(teacher, student).sum(-1), valid)


def idm_loss(error: Tensor, valid: Tensor) -> Tensor:
    """L_I: mean of the prediction errors ``[...]`` of the IDM (Equation 8)."""
    return masked_mean(error, valid)


def _masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Log softmax over the last axis where ``mask``; finite (and of probability 0) elsewhere."""
    return torch.log_softmax(logits.masked_fill(~mask.bool(), torch.finfo(logits.dtype).min), -1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL divergence over the last axis; an entry with p = 0 contributes 0."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), torch.zeros_like(p)).sum(-1)
