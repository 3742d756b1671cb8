"""The two fusion blocks of DDN: ``x_hat = x W(z) + B(z)`` (paper, section 4.2 and Figure 2).

Two hypernetworks generate W and B from an agent's local information ``z_i = (o_i, u_i, i)``. The *Personalization
Fusion Block* of the leader multiplies W by the global state S, which all agents share; the *Independent Observation
Block* of the follower multiplies it by the agent's observation.

W is never built. With ``h = ReLU(Linear(z))`` of size K, a hypernetwork that is linear in h gives
``W = (sum_k h_k A_k + C) / sqrt(X)`` for an x of size X, so

    ``sqrt(X) x W  =  sum_k h_k (x A_k) + x C``

which is a linear layer of x with K + 1 outputs for every output of the block, weighted by h and a 1. For the leader
this layer is computed once per time step and shared by all agents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class _FusionBlock(nn.Module):
    """The two hypernetworks of a block: W's has a hidden layer, B's is linear.

    x W must not drown B, which alone carries the agent's view into the leader. So x W starts with a tenth of B's
    variance over time steps and agents, whatever the size of x, and it learns no faster than B: Adam moves every
    parameter equally far, and an output of x W depends on X (K + 1) of them, one of B on Z. Hence sqrt(X).

    Args:
        input_dim: X, the size of x.
        local_dim: Z, the size of ``z_i``.
        embed_dim: D, the size of the block's output.
        hyper_dim: K, the hidden size of W's hypernetwork.
    """

    def __init__(self, input_dim: int, local_dim: int, embed_dim: int, hyper_dim: int):
        super().__init__()
        self.embed_dim, self.hyper_dim = embed_dim, hyper_dim
        self.hyper = nn.Linear(local_dim, hyper_dim)
        # All A_k, then C: the last layer of W's hypernetwork, vec(W) = Linear(h) / sqrt(X).
        self.kernels = nn.Parameter(torch.empty(input_dim, (hyper_dim + 1) * embed_dim).uniform_(-0.3, 0.3))
        self.scale = 1 / math.sqrt(input_dim)
        self.bias = nn.Linear(local_dim, embed_dim)

    def _hypernetworks(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """``(h, 1) / sqrt(X)`` ``[M, K + 1]`` and B ``[M, D]`` of rows z ``[M, Z]``."""
        return functional.pad(torch.relu_(self.hyper(z)), (0, 1), value=1.0) * self.scale, self.bias(z)


class PersonalizationFusionBlock(_FusionBlock):
    """``S_hat_i = S W(z_i) + B(z_i)``: the leader's personalized state (section 4.2)."""

    def forward(self, state: Tensor, z: Tensor) -> Tensor:
        """
        Args:
            state: ``[M, S]``, one global state for each of M time steps.
            z: ``[M, N, Z]``, the local information of the N agents.

        Returns:
            ``[M, N, D]``.
        """
        h, b = (rows.view(*z.shape[:2], -1) for rows in self._hypernetworks(z.flatten(0, 1)))
        products = (state @ self.kernels).unflatten(-1, (-1, self.embed_dim))  # [M, K + 1, D]
        return torch.baddbmm(b, h, products)


class IndependentObservationBlock(_FusionBlock):
    """``o_hat_i = o_i W(z_i) + B(z_i)``: the follower's block, which never sees the state."""

    def forward(self, obs: Tensor, z: Tensor) -> Tensor:
        """
        Args:
            obs: ``[M, N, O]``, each agent's own observation.
            z: ``[M, N, Z]``, the local information of the N agents.

        Returns:
            ``[M, N, D]``.
        """
        x, (h, b) = obs.flatten(0, 1), self._hypernetworks(z.flatten(0, 1))
        if torch.is_grad_enabled():  # exporters cannot trace a custom function, and need no gradients
            return _PerRowFusion.apply(x, h, b, self.kernels).view(*z.shape[:2], -1)
        products = (x @ self.kernels).unflatten(-1, (-1, self.embed_dim))  # [M * N, K + 1, D]
        return torch.baddbmm(b.unsqueeze(1), h.unsqueeze(1), products).view(*z.shape[:2], -1)


class RawFusion(nn.Module):
    """The blocks' replacement in the ablation "raw state" (Table 3): ``Linear(inputs)``.

    The leader passes ``concat(S, z_i)``, the follower ``z_i``.
    """

    def __init__(self, input_dim: int, embed_dim: int):
        super().__init__()
        self.linear = nn.Linear(input_dim, embed_dim)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs ``[..., X_k]`` with the X_k adding up to ``input_dim``; returns ``[..., D]``."""
        return self.linear(torch.cat(inputs, -1))


class _PerRowFusion(torch.autograd.Function):
    """``sum_k h_k (x A_k) + b`` where every row has its own x, computed in chunks of rows that stay in the cache.

    It saves 4 to 8 % of an update of DDN on QMIX beside ``torch.baddbmm`` (B=32, T=200, N=8, one thread: 135 instead of
    190 ms of 640 with Predator-Prey's sizes, 220 instead of 269 ms with SMAX 3s5z's). All products x A_k are kept for
    the backward pass, since each number of them takes X operations. The result is written into b.
    """

    CHUNK = 512

    @staticmethod
    def forward(ctx, x: Tensor, h: Tensor, b: Tensor, kernels: Tensor) -> Tensor:
        """x ``[M, X]``, h ``[M, K]``, b ``[M, D]``, kernels ``[X, K * D]`` with all A_k; returns ``[M, D]``."""
        products = x.new_empty(*h.shape, b.shape[1])  # [M, K, D]
        for rows in _PerRowFusion._chunks(x):
            torch.mm(x[rows], kernels, out=products[rows].flatten(1))
            for weight, product in zip(h[rows].split(1, 1), products[rows].unbind(1), strict=True):
                b[rows].addcmul_(weight, product)  # torch's batched products are slow where each is as small as this
        ctx.save_for_backward(x, h, products, kernels)
        ctx.mark_dirty(b)
        return b

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):
        x, h, products, kernels = ctx.saved_tensors
        grad = grads[0]  # [M, D]
        d_h, d_kernels = torch.empty_like(h), torch.zeros_like(kernels)
        d_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None  # not where x is data, as an observation is
        for rows in _PerRowFusion._chunks(x):
            g = grad[rows].unsqueeze(1)  # [chunk, 1, D]
            torch.bmm(products[rows], g.transpose(1, 2), out=d_h[rows].unsqueeze(2))
            d_products = h[rows].unsqueeze(2) * g  # [chunk, K, D]
            d_kernels.addmm_(x[rows].t(), d_products.flatten(1))
            if d_x is not None:
                torch.mm(d_products.flatten(1), kernels.t(), out=d_x[rows])
        return d_x, d_h, grad, d_kernels

    @staticmethod
    def _chunks(x: Tensor) -> Iterator[slice]:
        """Rows of each chunk: cache-sized on a CPU, and enough to fill a GPU elsewhere."""
        size = _PerRowFusion.CHUNK if x.device.type == "cpu" else 1 << 16
        for i in range(0, len(x), size):
            yield slice(i, min(i + size, len(x)))
