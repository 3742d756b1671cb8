"""The two fusion blocks of DDN: ``x_hat = x W(z) + B(z)`` (paper, section 4.2 and Figure 2).

Both blocks generate their weights W and biases B from an agent's local information
``z_i = (o_i, u_i, i)``. They differ in what W multiplies: the *Personalization Fusion
Block* of the leader multiplies the global state S, which all agents share; the
*Independent Observation Block* of the follower multiplies the agent's own observation.

W is never built. With ``h = ReLU(Linear(z))`` of size K, hypernetworks that are linear in h give
``W = sum_k h_k A_k + C`` and ``B = sum_k h_k b_k + c``, so

    ``x W + B  =  sum_k h_k (x A_k + b_k) + (x C + c)``

which is one ordinary linear layer of x with K + 1 outputs for every output of the block, weighted
by h and a 1. For the leader that layer is computed once per time step and shared by all agents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class _FusionBlock(nn.Module):
    """The hypernetwork that both blocks share.

    Args:
        input_dim: X, the size of what is fused.
        local_dim: Z, the size of ``z_i``.
        embed_dim: D, the size of the block's output.
        hyper_dim: K, the hidden size of the hypernetwork.
    """

    def __init__(self, input_dim: int, local_dim: int, embed_dim: int, hyper_dim: int):
        super().__init__()
        self.embed_dim, self.hyper_dim = embed_dim, hyper_dim
        self.hyper = nn.Linear(local_dim, hyper_dim)
        # All A_k, then C, and all b_k, then c. As the last layers of the hypernetworks, vec(W) = Linear(h)
        # and B = Linear(h), they have the initial values that nn.Linear(K, ...) has.
        bound = 1.0 / math.sqrt(hyper_dim)
        self.weight = nn.Parameter(torch.empty(input_dim, (hyper_dim + 1) * embed_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty((hyper_dim + 1) * embed_dim).uniform_(-bound, bound))

    def materialized(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """W(z) ``[..., X, D]`` and B(z) ``[..., D]``: what the paper writes and the blocks avoid; for inspection."""
        h = functional.pad(torch.relu(self.hyper(z)), (0, 1), value=1.0)  # [..., K + 1]
        a = self.weight.unflatten(1, (self.hyper_dim + 1, self.embed_dim))  # [X, K + 1, D]
        return torch.einsum("...k,xkd->...xd", h, a), h @ self.bias.view(self.hyper_dim + 1, -1)


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
        h = functional.pad(torch.relu(self.hyper(z)), (0, 1), value=1.0)  # [M, N, K + 1]
        products = torch.addmm(self.bias, state, self.weight).view(-1, self.hyper_dim + 1, self.embed_dim)  # [M, K + 1, D]
        return torch.bmm(h, products)


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
        rows = z.flatten(0, -2), obs.flatten(0, -2)  # [M * N, Z], [M * N, O]
        weights = self.hyper.weight, self.hyper.bias, self.weight, self.bias
        return _PerRowFusion.apply(*rows, *weights).view(*z.shape[:-1], self.embed_dim)


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
    """The whole block where every row m has an x of its own.

    The products of all rows are (K + 1) * D wide. Rows are taken in chunks, so that all that is
    made of them stays in the cache, and are computed again in the backward pass instead of being
    kept. No gradient is given to z and x, which are data.
    """

    CHUNK = 256

    @staticmethod
    def forward(ctx, *tensors: Tensor) -> Tensor:
        """z ``[M, Z]``, x ``[M, X]``, the hypernetwork's weight and bias, the block's weight and bias; returns ``[M, D]``."""
        ctx.save_for_backward(*tensors)
        _, x, _, hyper_bias, _, bias = tensors
        out = x.new_empty(len(x), 1, len(bias) // (len(hyper_bias) + 1))  # [M, 1, D]
        for rows, h, products in _PerRowFusion._chunks(*tensors):
            torch.bmm(h.unsqueeze(1), products, out=out[rows])
        return out.squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):
        z, x, *weights = ctx.saved_tensors
        d_hyper, d_hyper_bias, d_weight, d_bias = (torch.zeros_like(weight) for weight in weights)
        k = len(d_hyper)
        grad = grads[0].contiguous()  # [M, D]
        for rows, h, products in _PerRowFusion._chunks(*ctx.saved_tensors):
            g = grad[rows].unsqueeze(1)  # [chunk, 1, D]
            d_bias.view(k + 1, -1).addmm_(h.t(), g.squeeze(1))
            d_h = products.mul_(g)[:, :k].sum(-1)  # [chunk, K]
            d_h = torch.ops.aten.threshold_backward(d_h, h[:, :k], 0)  # before the ReLU
            d_hyper.addmm_(d_h.t(), z[rows])
            d_hyper_bias.add_(d_h.sum(0))
            torch.mul(h.unsqueeze(2), g, out=products)  # the products' gradient, [chunk, K + 1, D]
            d_weight.addmm_(x[rows].t(), products.flatten(1))
        return None, None, d_hyper, d_hyper_bias, d_weight, d_bias

    @staticmethod
    def _chunks(
        z: Tensor, x: Tensor, hyper: Tensor, hyper_bias: Tensor, weight: Tensor, bias: Tensor
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Which rows, their ``(h, 1)`` ``[chunk, K + 1]``, and their products ``[chunk, K + 1, D]``.

        A chunk is cache-sized on a CPU, and large enough to fill a GPU elsewhere. All share memory.
        """
        size, k = _PerRowFusion.CHUNK if x.device.type == "cpu" else 1 << 16, len(hyper)
        room = min(size, len(x))
        h_memory, products_memory = x.new_ones(room, k + 1), x.new_empty(room, len(bias))
        for i in range(0, len(x), size):
            rows = slice(i, min(i + size, len(x)))
            h, products = h_memory[: rows.stop - i], products_memory[: rows.stop - i]
            h[:, :k] = torch.addmm(hyper_bias, z[rows], hyper.t()).relu_()
            torch.addmm(bias, x[rows], weight, out=products)
            yield rows, h, products.view(-1, k + 1, len(bias) // (k + 1))
