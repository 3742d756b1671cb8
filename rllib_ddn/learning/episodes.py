"""Episodes as NumPy arrays: the one layout of sampling, replay and learning.

It is *episode-major*: a row is an episode, a field is an array, in the dtype of the env.

===============  ==================  =======================================================
field            shape               meaning
===============  ==================  =======================================================
``obs``          [E, T + 1, N, O]    observations, including the final one
``state``        [E, T + 1, S]       global state, stored once and not per agent
``action_mask``  [E, T + 1, N, A]    bool, available actions
``actions``      [E, T, N]           action indices
``rewards``      [E, T]              float32 team reward
``terminated``   [E]                 bool: terminated, and not truncated by a time limit
``length``       [E]                 int32, number of steps; padding behind them is zero
===============  ==================  =======================================================

There are no one-hots and no second copy of the observations: the successor of step t is step t + 1.
"""

from __future__ import annotations

import numpy as np

from rllib_ddn.team import TeamSpec

Episodes = dict[str, np.ndarray]

PER_EPISODE = ("terminated", "length")
_STEPS = ("actions", "rewards")
_STEPS_AND_FINAL = ("obs", "state", "action_mask")


def empty_episodes(num_episodes: int, num_steps: int, spec: TeamSpec) -> Episodes:
    """Zeroed episodes of ``num_steps`` steps.

    Args:
        num_episodes: E.
        num_steps: T.
        spec: the team's sizes and dtypes.
    """
    e, t, n, a = num_episodes, num_steps, spec.num_agents, spec.num_actions
    return {
        "obs": np.zeros((e, t + 1, n, spec.obs_dim), spec.obs_dtype),
        "state": np.zeros((e, t + 1, spec.state_dim), spec.state_dtype),
        "action_mask": np.zeros((e, t + 1, n, a), bool),
        "actions": np.zeros((e, t, n), np.uint8 if a <= 256 else np.int32),
        "rewards": np.zeros((e, t), np.float32),
        "terminated": np.zeros(e, bool),
        "length": np.zeros(e, np.int32),
    }


def resize_steps(episodes: Episodes, num_steps: int) -> Episodes:
    """The episodes with room for ``num_steps`` steps: cut (a view) or padded with zeros."""
    now = episodes["rewards"].shape[1]
    out = dict(episodes)
    for name in (*_STEPS_AND_FINAL, *_STEPS):
        extra = name in _STEPS_AND_FINAL
        if num_steps <= now:
            out[name] = episodes[name][:, : num_steps + extra]
        else:
            old = episodes[name]
            out[name] = np.zeros((old.shape[0], num_steps + extra, *old.shape[2:]), old.dtype)
            out[name][:, : now + extra] = old
    return out
