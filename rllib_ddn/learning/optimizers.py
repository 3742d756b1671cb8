"""Optimizers by learner, and what happens between gradients and a step: clipping, and the refusal of NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rllib_ddn.losses import Statistics

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "rmsprop": partial(torch.optim.RMSprop, alpha=0.99, eps=1e-5),
    "adam": torch.optim.Adam,
}


class DivergenceError(FloatingPointError):
    """A loss or a gradient is NaN or infinite. The message is one line."""


def make_optimizer(choice: str | Mapping[str, Any], parameters: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    """The optimizer of one learner.

    Args:
        choice: a name of ``OPTIMIZERS``, or a dict of ``type`` and further arguments of torch's class.
        parameters: of the learner.
        lr: learning rate.
    """
    arguments = {"type": choice} if isinstance(choice, str) else dict(choice)
    return OPTIMIZERS[arguments.pop("type")](parameters, lr=lr, **arguments)


def clip_gradients(optimizers: Mapping[str, torch.optim.Optimizer], largest_norm: float | None) -> dict[str, Tensor]:
    """Clips the gradient of each learner separately.

    Args:
        optimizers: by learner.
        largest_norm: None leaves the gradients as they are.

    Returns:
        The norms before clipping, by learner.
    """
    norms = {}
    for learner, optimizer in optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, torch.inf if largest_norm is None else largest_norm)
        norms[learner] = norm.to(parameters[0].device)
    return norms


def check_finite(gradient_norms: Mapping[str, Tensor], statistics: Statistics) -> None:
    """Refuses an update before it is applied. A loss that is not finite has gradients that are not, so that the norms
    are enough to look at.

    Args:
        gradient_norms: by learner.
        statistics: of the update; the message names those that are not finite.

    Raises:
        DivergenceError: a norm is NaN or infinite; the message names the learners.
    """
    if torch.isfinite(torch.stack(list(gradient_norms.values()))).all():
        return
    learners = [name for name, norm in gradient_norms.items() if not torch.isfinite(norm)]
    figures = [f"{name} = {float(value)}" for name, value in statistics.items() if not torch.isfinite(value)]
    details = f" ({', '.join(figures)})" if figures else ""
    raise DivergenceError(
        f"the gradient of {' and '.join(learners)} is not finite{details}: the training diverges. Try a lower lr, or, "
        'where all episodes end at one time limit, env_config={"timeouts": "terminate"}.'
    )
