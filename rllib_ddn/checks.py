"""What no network can act on is refused, in training and where a policy is deployed. Needs NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
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
            f"there is an observation that holds NaN or infinity{when}, of agent {agent!r}; observations must be finite."
        )
    if state.dtype.kind == "f" and not np.isfinite(state).all():
        raise TeamEnvError(f"there is a state that holds NaN or infinity{when}; states must be finite.")
    if not action_mask.any(-1).all():
        agent = _first(~action_mask.any(-1), agents)
        raise TeamEnvError(f"the action mask of agent {agent!r} is all zero{when}: leave at least one action, a no-op if need be.")


def _first(wrong: Any, agents: Sequence[Any] | None) -> Any:
    """The first agent that is marked in ``wrong [..., N]``."""
    agent = int(np.argwhere(wrong)[0][-1])
    return agent if agents is None else agents[agent]
