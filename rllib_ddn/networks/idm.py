"""The Internal Distillation Module (IDM): random network distillation on the state.

Paper, section 4.3, Equations 8 to 10 and Figure 3; after RND (Burda et al. 2018).
"""

from __future__ import annotations

import copy

from torch import Tensor, nn


class InternalDistillationModule(nn.Module):
    """A prediction network that learns to match a fixed random target network.

    Both are an MLP with ReLU on the global state. The prediction error is large at new states: it is the loss L_I
    (Equation 8) and, masked, the intrinsic reward.

    Args:
        state_dim: S.
        hidden_dim: width of the hidden layer.
        embed_dim: size of the output H.
        norm: "sum" or "mean" of the outputs' squared errors.
    """

    target: nn.Sequential

    def __init__(self, state_dim: int, hidden_dim: int = 64, embed_dim: int = 64, norm: str = "mean"):
        super().__init__()
        self.norm = norm
        self.predictor = nn.Sequential(nn.Linear(state_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, embed_dim))
        self.target = copy.deepcopy(self.predictor).requires_grad_(False)
        for layer in self.target:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()

    def forward(self, state: Tensor) -> Tensor:
        """L_I of each state (Equation 8): ``[..., S]`` to ``[...]``."""
        error = (self.predictor(state) - self.target(state)).square()
        return error.sum(-1) if self.norm == "sum" else error.mean(-1)
