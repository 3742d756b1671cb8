"""The Internal Distillation Module (IDM): random network distillation on the state.

Paper, section 4.3, Equations 8 to 10 and Figure 3; after RND (Burda et al. 2018).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class InternalDistillationModule(nn.Module):
    """A prediction network that learns to match a fixed random target network.

    Both are the same MLP with ReLU on the global state. Where the predictor still errs, the
    state is new: the error is the loss L_I (Equation 8) and, masked, the intrinsic reward.

    Args:
        state_dim: S.
        hidden_dim: width of the hidden layer.
        embed_dim: size of the output H.
        normalize: divide the reward by a running standard deviation of the error, as RND does.
    """

    target: nn.Sequential
    count: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, state_dim: int, hidden_dim: int = 64, embed_dim: int = 64, normalize: bool = False):
        super().__init__()
        self.normalize = normalize
        self.predictor = nn.Sequential(nn.Linear(state_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, embed_dim))
        self.target = copy.deepcopy(self.predictor).requires_grad_(False)
        for layer in self.target:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        # Running moments of the error: number of states seen, mean, sum of squared deviations.
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("square", torch.zeros(()))

    def forward(self, state: Tensor) -> Tensor:
        """L_I of each state (Equation 8): ``[..., S]`` to ``[...]``, mean over the embedding."""
        return (self.predictor(state) - self.target(state)).square().mean(-1)

    @torch.no_grad()
    def update_moments(self, error: Tensor, valid: Tensor) -> None:
        """Takes a batch of errors ``[...]`` into the running moments where ``valid`` (0 or 1)."""
        count = valid.sum()
        mean = (error * valid).sum() / count
        square = ((error - mean).square() * valid).sum()
        total, delta = self.count + count, mean - self.mean
        self.square += square + delta.square() * self.count * count / total
        self.mean += delta * count / total
        self.count.copy_(total)

    @torch.no_grad()
    def reward(self, error: Tensor, keep: Tensor, coeff: float) -> Tensor:
        """The intrinsic reward ``r_I = coeff * m * L_I`` (Equation 9).

        Args:
            error: ``[...]``, L_I of each state.
            keep: ``[...]``, the mask m, drawn from Bernoulli(mask probability), as 0 or 1.
            coeff: scale.

        Returns:
            ``[...]``, zero where the mask is.
        """
        reward = coeff * keep * error.detach()
        if self.normalize:
            std = (self.square / self.count.clamp(min=1.0)).sqrt()
            reward = reward / torch.where(std > 0, std, torch.ones_like(std))
        return reward
