"""Episodes as arrays, and the replay of them, in plain NumPy.

Everything that moves between sampling, replay and learning is one layout, *episode-major*: a
row is an episode, a field is an array, in the dtype of the environment.

===============  ==================  =======================================================
field            shape               meaning
===============  ==================  =======================================================
``obs``          [E, T + 1, N, O]    observations, the final one included
``state``        [E, T + 1, S]       global state, stored once and not per agent
``action_mask``  [E, T + 1, N, A]    bool, available actions
``actions``      [E, T, N]           action indices
``rewards``      [E, T]              float32 team reward
``terminated``   [E]                 bool: the game ended (and was not truncated by a time limit)
``length``       [E]                 int32, number of steps; what lies behind it is zero
===============  ==================  =======================================================

There are no one-hots and no second copy of the observations: the successor of step t is
step t + 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rllib_ddn.team import TeamSpec

Episodes = dict[str, np.ndarray]

_STEPS_AND_FINAL = ("obs", "state", "action_mask")
_STEPS = ("actions", "rewards")
_PER_EPISODE = ("terminated", "length")


def empty_episodes(num_episodes: int, num_steps: int, spec: TeamSpec) -> Episodes:
    """Zeroed episodes of ``num_steps`` steps.

    Args:
        num_episodes: E.
        num_steps: T.
        spec: the sizes.
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
    """The same episodes with room for ``num_steps`` steps: cut (a view) or padded with zeros."""
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


class EpisodeReplay:
    """A ring of whole episodes, sampled uniformly without replacement.

    Memory is reserved at the first :meth:`add` and touched only as episodes arrive. Apart from a
    longer episode than any before, nothing is allocated later.

    Args:
        capacity: number of episodes kept; the oldest goes first.

    Raises:
        ValueError: capacity is not a positive whole number.
    """

    def __init__(self, capacity: int = 5000):
        if not (isinstance(capacity, (int, np.integer)) and capacity > 0):
            raise ValueError(
                f"replay_buffer_config['capacity'] is the number of episodes kept, a whole number above 0; got {capacity!r}."
            )
        self.capacity = int(capacity)
        self.num_added = 0
        self._data: Episodes = {}

    def __len__(self) -> int:
        """Number of episodes held."""
        return min(self.num_added, self.capacity)

    @property
    def num_steps(self) -> int:
        """Number of env steps held."""
        return int(self._data["length"][: len(self)].sum()) if self._data else 0

    @property
    def nbytes(self) -> int:
        """Bytes that the episodes held take up."""
        return sum(array[: len(self)].nbytes for array in self._data.values())

    def add(self, episodes: Episodes) -> None:
        """Copies the given episodes in. Padding must be zero (as the env runner leaves it)."""
        if not self._data:
            self._data = self._reserved(episodes)
        elif episodes["rewards"].shape[1] > self._data["rewards"].shape[1]:
            old, held = self._data, len(self)
            self._data = self._reserved(episodes)
            for name, array in old.items():
                rows = self._data[name][:held]
                (rows if name in _PER_EPISODE else rows[:, : array.shape[1]])[:] = array[:held]
        for row in range(len(episodes["length"])):
            slot = self.num_added % self.capacity
            for name, array in episodes.items():
                target = self._data[name]
                if name in _PER_EPISODE:
                    target[slot] = array[row]
                else:
                    target[slot, : array.shape[1]] = array[row]
                    target[slot, array.shape[1] :] = 0
            self.num_added += 1

    def _reserved(self, like: Episodes) -> Episodes:
        """Room for ``capacity`` episodes as long as these."""
        return {name: np.zeros((self.capacity, *array.shape[1:]), array.dtype) for name, array in like.items()}

    def sample(self, batch_size: int, rng: np.random.Generator) -> Episodes:
        """``batch_size`` distinct episodes, trimmed to the longest of them.

        Args:
            batch_size: at most ``len(self)``.
            rng: source of randomness.

        Returns:
            Arrays of their own (not views), rows in random order.

        Raises:
            ValueError: fewer than ``batch_size`` episodes are held.
        """
        if batch_size > len(self):
            raise ValueError(f"cannot sample {batch_size} episodes: the replay holds {len(self)}.")
        rows = rng.choice(len(self), batch_size, replace=False)
        steps = int(self._data["length"][rows].max())
        return {name: array[rows] for name, array in resize_steps(self._data, steps).items()}

    def get_state(self) -> dict[str, Any]:
        """All that :meth:`set_state` needs to continue with the very same samples."""
        return {
            "num_added": self.num_added,
            "data": {name: array[: len(self)].copy() for name, array in self._data.items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores :meth:`get_state`.

        Raises:
            ValueError: the state holds more episodes than this replay's capacity.
        """
        held = len(state["data"].get("length", ()))
        if held > self.capacity or (state["num_added"] > held and held != self.capacity):
            raise ValueError(
                f"the checkpoint's replay is a ring of {held} or more episodes, but replay_buffer_config['capacity'] is "
                f"{self.capacity}: restore with the capacity that it was saved with."
            )
        self.num_added = state["num_added"]
        self._data = self._reserved(state["data"])
        for name, array in state["data"].items():
            self._data[name][:held] = array
