"""The two fusion blocks of DDN: ``x_hat = x W(z) + B(z)`` (paper, section 4.2 and Figure 2).

Both blocks generate their weights W and biases B from an agent's local information
``z_i = (o_i, u_i, i)``. They differ in what W multiplies: the *Personalization Fusion
Block* of the leader multiplies the global state S, which all agents share; the
*Independent Observation Block* of the follower multiplies the agent's own observation.

W is never built. With ``h = ReLU(Linear(z))`` of size K, a hypernetwork that is linear in h
gives ``W = sum_k h_k A_k + C``, so

    ``x W + B  =  sum_k h_k (x A_k) + x C + B(h)``

and ``x A_k`` is one matrix product over all k. For the leader it is computed once per time
step and shared by all agents.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


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
        self.input_dim, self.embed_dim, self.hyper_dim = input_dim, embed_dim, hyper_dim
        self.hyper = nn.Linear(local_dim, hyper_dim)
        # The last layer of the hypernetwork, vec(W) = Linear(h), kept in the two parts that
        # the factorized form uses, with the initial values that nn.Linear(K, X * D) has.
        bound = 1.0 / math.sqrt(hyper_dim)
        self.weight = nn.Parameter(torch.empty(input_dim, hyper_dim * embed_dim).uniform_(-bound, bound))  # A, [X, K * D]
        self.offset = nn.Parameter(torch.empty(input_dim, embed_dim).uniform_(-bound, bound))  # C, [X, D]
        self.bias = nn.Linear(hyper_dim, embed_dim)  # B(h)

    def materialized_weight(self, z: Tensor) -> Tensor:
        """W(z), ``[..., X, D]``: what the paper writes and the blocks avoid; for inspection."""
        h = torch.relu(self.hyper(z))  # [..., K]
        a = self.weight.view(self.input_dim, self.hyper_dim, self.embed_dim)
        return torch.einsum("...k,xkd->...xd", h, a) + self.offset


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
        h = torch.relu(self.hyper(z))  # [M, N, K]
        products = (state @ self.weight).view(-1, self.hyper_dim, self.embed_dim)  # [M, K, D]
        shared = (state @ self.offset).unsqueeze(1)  # [M, 1, D]
        return torch.baddbmm(shared + self.bias(h), h, products)


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
        h = torch.relu(self.hyper(z))  # [M, N, K]
        fused = _PerRowFusion.apply(obs.flatten(0, 1), h.flatten(0, 1), self.weight)  # [M * N, D]
        return fused.view(*h.shape[:-1], -1) + obs @ self.offset + self.bias(h)


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
    """``out_m = sum_k h_mk (x_m A_k)`` where every row m has an x of its own.

    The products ``x A`` of all rows are K * D wide. Rows are taken in chunks, so that they stay
    in the cache, and are computed again in the backward pass instead of being kept. No
    gradient is given to x, which is data.
    """

    CHUNK = 256

    @staticmethod
    def forward(ctx, x: Tensor, h: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, h, weight)
        rows, k = h.shape
        out = x.new_empty(rows, 1, weight.shape[1] // k)  # [M, 1, D]
        for i in range(0, rows, _PerRowFusion._chunk(x)):
            j = i + _PerRowFusion._chunk(x)
            products = (x[i:j] @ weight).view(-1, k, out.shape[2])  # [chunk, K, D]
            torch.bmm(h[i:j].unsqueeze(1), products, out=out[i:j])
        return out.squeeze(1)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        x, h, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        (rows, k), d = h.shape, grad.shape[1]
        grad_h, grad_weight = h.new_empty(rows, k, 1), torch.zeros_like(weight)
        for i in range(0, rows, _PerRowFusion._chunk(x)):
            j = i + _PerRowFusion._chunk(x)
            products = (x[i:j] @ weight).view(-1, k, d)  # [chunk, K, D]
            torch.bmm(products, grad[i:j].unsqueeze(2), out=grad_h[i:j])
            outer = h[i:j].unsqueeze(2) * grad[i:j].unsqueeze(1)  # [chunk, K, D]
            grad_weight.addmm_(x[i:j].t(), outer.view(-1, k * d))
        return None, grad_h.squeeze(2), grad_weight

    @staticmethod
    def _chunk(x: Tensor) -> int:
        """Rows per chunk: cache-sized on a CPU, large enough to fill a GPU elsewhere."""
        return _PerRowFusion.CHUNK if x.device.type == "cpu" else 1 << 16
