"""From episodes to the tensors of an update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rllib_ddn.networks.agent import AgentOutput, LocalInput
from rllib_ddn.networks.mixers.mixer import TeamValues


@dataclass
class TrainBatch:
    """The steps of a batch of episodes as rows of tensors.

    The M rows are packed for the GRU: all episodes' step 0, then all episodes' step 1, and so on,
    the longest episodes first. An episode of T steps has T + 1 rows; its last is the final
    observation, which no action follows.

    Attributes:
        state: ``[M, S]``.
        z: ``[M, N, Z]``, the local information ``(o_i, u_i, i)``; its first O columns are the observations.
        action_mask: ``[M, N, A]`` bool.
        actions: ``[M, N]`` int64.
        rewards: ``[M]``.
        terminated: ``[M]``, 1 at the last step of episodes that terminated.
        valid: ``[M]``, 1 at steps, 0 at final observations (and padding).
        uniform: ``[M]``, a random number in [0, 1) for each row, which decides m_t of Equation 9.
        next: ``[M]`` int64, the row of the next time step; for a row without one, the row itself.
        batch_sizes: ``[T + 1]`` int64 on the CPU, number of episodes at each step.
    """

    state: Tensor
    z: Tensor
    action_mask: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    valid: Tensor
    uniform: Tensor
    next: Tensor
    batch_sizes: Tensor

    def team(self, out: AgentOutput, actions: Tensor) -> TeamValues:
        """The input of mixers: a network's unroll of the batch, and a joint action ``[M, N]``."""
        return TeamValues(out.q, actions, self.action_mask, self.state, self.z, out.hidden_states, self.batch_sizes)


def make_batch(episodes: Mapping[str, Any], local_input: LocalInput, pack: bool | None = None) -> TrainBatch:
    """Turns episodes into a :class:`TrainBatch`.

    Args:
        episodes: the fields of :mod:`rllib_ddn.learning.episodes` and ``uniform`` ``[B, T]``, as tensors.
        local_input: builds z.
        pack: whether to leave padding out; by default on a CPU. On a GPU all episodes are padded to the
            longest, and ``valid`` masks the padding: waiting for the lengths would take longer than to
            compute on it.
    """
    length = episodes["length"].long()  # [B]
    device, (rows, steps) = length.device, episodes["rewards"].shape
    time = torch.arange(steps + 1, device=device).unsqueeze(1)  # [T + 1, 1]
    if device.type == "cpu" if pack is None else pack:
        length, order = torch.sort(length, descending=True, stable=True)
        exists = time <= length  # [T + 1, B]
        t, b = exists.nonzero(as_tuple=True)  # [M], [M]
        batch_sizes = exists.sum(1)
    else:
        order = torch.arange(rows, device=device)
        t, b = time.repeat(1, rows).flatten(), order.repeat(steps + 1)
        batch_sizes = torch.full((steps + 1,), rows)
    episode, length = order[b], length[b]  # [M], [M]
    step = t.clamp(max=steps - 1)  # final observations have no action; any will do
    valid = t < length
    last_action = torch.where(
        t.unsqueeze(1) > 0, episodes["actions"][episode, (t - 1).clamp(min=0)].long(), -1
    )  # [M, N]
    # The next step of the b-th longest episode is the b-th row among those of the next step.
    starts = torch.nn.functional.pad(batch_sizes.cumsum(0), (1, 0)).to(device)  # [T + 2]
    following = torch.where(valid, starts[t + 1] + b, torch.arange(len(t), device=device))
    return TrainBatch(
        state=episodes["state"][episode, t].float(),
        z=local_input(episodes["obs"][episode, t], last_action),
        # The masks of padding are all zero; what is computed from them is not used.
        action_mask=episodes["action_mask"][episode, t],
        actions=episodes["actions"][episode, step].long(),
        rewards=episodes["rewards"][episode, step].float(),
        terminated=(episodes["terminated"][episode] & (t == length - 1)).float(),
        valid=valid.float(),
        uniform=episodes["uniform"][episode, step].float(),
        next=following,
        batch_sizes=batch_sizes,
    )
