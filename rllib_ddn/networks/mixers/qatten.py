"""Qatten: multi-head attention between the global state and the agents (Yang et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rllib_ddn.losses import Statistics, global_loss, masked_mean
from rllib_ddn.networks.mixers.mixer import Mixer, TeamSizes, TeamValues, mlp


class QattenMixer(Mixer):
    """``Q_tot = c(s) + sum_h w_h(s) sum_i lambda_{i,h} Q_i`` (Yang et al. 2020).

    ``lambda_h = softmax_i(key_h(e_i) . query_h(s) / sqrt(E))``: the query comes from the global state, the keys from
    the agents' features ``e_i``. The paper takes those out of StarCraft's state; here they are the local information
    ``z_i``, which every env has. Attention and head weights are non-negative, so Q_tot is monotone and IGM holds.

    Args:
        sizes: of the team.
        embed_dim: size E of queries and keys.
        hypernet_dim: hidden width of the networks that generate queries and head weights.
        num_heads: number of attention heads.
        weighted_heads: whether heads have weights w_h(s); else their weights are 1.
        attention_coeff: weight of the mean squared attention logits, a penalty that keeps them small.
    """

    def __init__(
        self,
        sizes: TeamSizes,
        embed_dim: int = 32,
        hypernet_dim: int = 64,
        num_heads: int = 4,
        weighted_heads: bool = True,
        attention_coeff: float = 0.001,
    ):
        super().__init__(sizes)
        if attention_coeff < 0:
            raise ValueError(f"mixer_config['attention_coeff'] is a weight of at least 0; got {attention_coeff!r}.")
        self.heads, self.embed_dim, self.attention_coeff = num_heads, embed_dim, attention_coeff
        self.query = mlp(sizes.state_dim, num_heads * hypernet_dim)
        # Each head has a query layer, on its part of the hidden layer.
        self.query_head = nn.Parameter(torch.empty(num_heads, hypernet_dim, embed_dim))
        nn.init.uniform_(self.query_head, -1 / math.sqrt(hypernet_dim), 1 / math.sqrt(hypernet_dim))
        self.key = nn.Linear(sizes.local_dim, num_heads * embed_dim, bias=False)
        self.head_weight = mlp(sizes.state_dim, hypernet_dim, num_heads) if weighted_heads else None
        self.bias = mlp(sizes.state_dim, embed_dim, 1)

    def forward(self, team: TeamValues) -> Tensor:
        return self._mix(team)[0]

    def loss(self, team: TeamValues, target: Tensor, greedy_value: Tensor, valid: Tensor) -> tuple[Tensor, Statistics]:
        """L_global, and the attention logits' mean square over valid steps."""
        q_tot, logits = self._mix(team)
        penalty = masked_mean(logits.square().mean(2).sum(1), valid)  # mean over agents, sum over heads
        return global_loss(q_tot, target, valid) + self.attention_coeff * penalty, self.statistics(q_tot, valid)

    def _mix(self, team: TeamValues) -> tuple[Tensor, Tensor]:
        """Q_tot ``[M]`` and the attention logits ``[M, heads, N]`` before their scaling."""
        hidden = torch.relu(self.query(team.state)).unflatten(-1, (self.heads, -1))  # [M, heads, hidden]
        query = torch.einsum("mhx,hxe->mhe", hidden, self.query_head)
        # query . (key z) = (query key) . z, and there are fewer queries than keys.
        key = self.key.weight.unflatten(0, (self.heads, self.embed_dim))  # [heads, E, Z]
        logits = torch.einsum("mhz,mnz->mhn", torch.einsum("mhe,hez->mhz", query, key), team.z)
        attention = torch.softmax(logits / math.sqrt(self.embed_dim), -1)  # [M, heads, N]
        heads = (attention @ team.q.unsqueeze(-1)).squeeze(-1)  # [M, heads]
        if self.head_weight is not None:
            heads = heads * self.head_weight(team.state).abs()
        return heads.sum(-1) + self.bias(team.state).squeeze(-1), logits
