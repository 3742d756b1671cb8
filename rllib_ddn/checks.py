"""What training and a deployed policy share: values are flattened alike, and what no network can act on is refused.

Needs NumPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np


class TeamEnvError(ValueError):
    """An env, or what came out of it, does not fit the convention. The message is one line."""


def check_values(
    obs: np.ndarray, state: np.ndarray, action_mask: np.ndarray, when: str = "", agents: Sequence[Any] | None = None
) -> None:
    """Refuses what no network can act on.

    Args:
        obs: ``[..., N, O]``, state: ``[..., S]``, action_mask: ``[..., N, A]`` bool.
        when: for the errors, such as " at step 3".
        agents: the N agents' names, for the errors; by default they are numbered.

    Raises:
        TeamEnvError: an observation or a state holds NaN or infinity, or an agent has no action.
    """
    if obs.dtype.kind == "f" and not np.isfinite(obs).all():
        agent = _first(~np.isfinite(obs).all(-1), agents)
        raise TeamEnvError(
            f"there is an observation that holds NaN or infinity{when}, of agent {agent!r}; observations must be "
            "finite."
        )
    if state.dtype.kind == "f" and not np.isfinite(state).all():
        raise TeamEnvError(f"there is a state that holds NaN or infinity{when}; states must be finite.")
    if not action_mask.any(-1).all():
        agent = _first(~action_mask.any(-1), agents)
        raise TeamEnvError(
            f"the action mask of agent {agent!r} is all zero{when}: leave at least one action, a no-op if need be."
        )


def _first(wrong: Any, agents: Sequence[Any] | None) -> Any:
    """The first agent that is marked in ``wrong [..., N]``."""
    agent = int(np.argwhere(wrong)[0][-1])
    return agent if agents is None else agents[agent]


def entries(parts: Any, value: Any, what: str) -> Iterator[tuple[Any, Any, str]]:
    """Of a value of a Dict or Tuple space: each part's space, its value, and its name in errors.

    Args:
        parts: the spaces, by key or in order.
        value: of all of them.
        what: its name in errors.

    Raises:
        TeamEnvError: an entry is missing, or there are too many.
    """
    if isinstance(parts, Mapping):
        missing = [key for key in parts if key not in value] if isinstance(value, Mapping) else list(parts)
        if missing:
            raise TeamEnvError(f"{what} lacks {missing[0]!r}, which its space has.")
        yield from ((part, value[key], f"{what}, {key!r},") for key, part in parts.items())
    else:
        if not isinstance(value, (tuple, list)) or len(value) != len(parts):
            raise TeamEnvError(f"{what} is {line(repr(value))}, but its space has {len(parts)} entries.")
        yield from ((part, value[i], f"{what}, entry {i},") for i, part in enumerate(parts))


def flat_numbers(
    value: Any,
    what: str,
    space: Any,
    shape: Sequence[int],
    dtype: Any,
    counts: Any = None,
    start: Any = 0,
    one_hot: bool = True,
) -> np.ndarray:
    """The numbers of a value, as one row.

    Args:
        value: of a space of numbers.
        what, space: the names of both in errors.
        shape, dtype: the space's.
        counts: of a discrete space, how many values each number has, from ``start`` on. None: not a discrete one.
        one_hot: whether a discrete space's numbers become one-hot.

    Raises:
        TeamEnvError: the value has not as many numbers as its space, or a fraction, NaN or a number out of
            range where the space has integers.
    """
    array, dtype = np.asarray(value), np.dtype(dtype)
    if array.dtype.kind not in "biuf":
        raise TeamEnvError(f"{what} is {line(repr(value))}; its space {line(str(space))} has numbers.")
    if array.size != math.prod(shape):
        raise TeamEnvError(f"{what} has the shape {array.shape}; its space has {tuple(shape)}.")
    if array.dtype != dtype and dtype.kind in "biu":
        with np.errstate(invalid="ignore"):
            whole = array.astype(dtype)
        if not np.array_equal(whole, array):
            raise TeamEnvError(
                f"{what} holds {array[whole != array].flat[0]}; its space {line(str(space))} has integers."
            )
    flat = array.astype(dtype).reshape(-1)
    if counts is None:
        return flat
    counts, places = np.asarray(counts), flat.astype(np.int64) - np.asarray(start)
    if ((places < 0) | (places >= counts)).any():
        raise TeamEnvError(f"{what} is {line(repr(value))}, which is not in its space {line(str(space))}.")
    if not one_hot:
        return flat
    hot = np.zeros(counts.sum(), dtype)
    hot[np.cumsum(counts) - counts + places] = 1
    return hot


def line(text: str, most: int = 60) -> str:
    """A text in one line, of at most so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."
