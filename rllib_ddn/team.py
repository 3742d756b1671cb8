"""A team's game in numbers: its sizes, and its observations as arrays.

A team has N agents with a common reward. RLlib's QMIX set the convention for its spaces (``with_agent_groups``):
the observation space is a ``Tuple`` with one entry per agent, a ``Dict`` with ``obs`` and, if the env has them,
``action_mask`` and ``state``, or a plain space; the action space is a ``Tuple`` of equal ``Discrete`` spaces.

Nothing here imports Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

OBS, ACTION_MASK, STATE = "obs", "action_mask", "state"


class TeamEnvError(ValueError):
    """An env, or what came out of it, does not fit the convention. The message is one line."""


@dataclass(frozen=True)
class TeamSpec:
    """The sizes of a team's game.

    Attributes:
        num_agents: N.
        num_actions: A.
        obs_dim: O, length of an agent's flattened observation.
        state_dim: S, length of the flattened global state.
        obs_dtype, state_dtype: as the env has them; one-hots of discrete spaces are int8.
        has_action_mask: whether the env masks actions.
    """

    num_agents: int
    num_actions: int
    obs_dim: int
    state_dim: int
    obs_dtype: np.dtype
    state_dtype: np.dtype
    has_action_mask: bool

    @classmethod
    def from_spaces(cls, observation_space: spaces.Tuple, action_space: spaces.Tuple) -> TeamSpec:
        """Reads the sizes off a team's spaces.

        Raises:
            TeamEnvError: the spaces break the convention.
        """
        agents = list(observation_space)
        num_agents = len(agents)
        if len(action_space) != num_agents:
            raise TeamEnvError(
                f"the team has {num_agents} observation spaces but {len(action_space)} action spaces; give each agent one of both."
            )
        for i, space in enumerate(action_space):
            if not isinstance(space, spaces.Discrete) or space.start != 0:
                raise TeamEnvError(
                    f"the action space of agent {i} is {space}: DDN needs Discrete(n) starting at 0. Discretize the actions."
                )
        sizes = {int(space.n) for space in action_space}
        if len(sizes) > 1:
            raise TeamEnvError(
                f"the agents have different numbers of actions {sorted(sizes)}: pad them to the largest and mask the rest "
                'with "action_mask" (the "pettingzoo" env does it by itself).'
            )
        num_actions = sizes.pop()
        obs = [part_of(space, OBS) for space in agents]
        dims = {spaces.flatdim(space) for space in obs}
        if len(dims) > 1:
            raise TeamEnvError(
                f"the agents have observations of different lengths {sorted(dims)}: pad them to the longest (the "
                '"pettingzoo" env does it by itself).'
            )
        state = part_of(agents[0], STATE)
        if state is None:
            raise TeamEnvError(
                'the env offers no global state: put "state" into each agent\'s Dict observation, give the env a '
                '`state_space` and a `state()` method, or choose env_config={"state": "concat"} to use the '
                "concatenated observations."
            )
        mask = part_of(agents[0], ACTION_MASK)
        if mask is not None and spaces.flatdim(mask) != num_actions:
            raise TeamEnvError(f'"action_mask" has the space {mask}, but there are {num_actions} actions.')
        return cls(
            num_agents=num_agents,
            num_actions=num_actions,
            obs_dim=dims.pop(),
            state_dim=spaces.flatdim(state),
            obs_dtype=np.result_type(*(flat_dtype(space) for space in obs)),
            state_dtype=flat_dtype(state),
            has_action_mask=mask is not None,
        )


def team_spaces(spec: TeamSpec) -> tuple[spaces.Tuple, spaces.Tuple]:
    """The observation and action space of a team with real-valued observations, action masks and a state."""
    agent = spaces.Dict(
        {
            OBS: spaces.Box(-np.inf, np.inf, (spec.obs_dim,), spec.obs_dtype.type),
            ACTION_MASK: spaces.Box(0, 1, (spec.num_actions,), np.int8),
            STATE: spaces.Box(-np.inf, np.inf, (spec.state_dim,), spec.state_dtype.type),
        }
    )
    return spaces.Tuple([agent] * spec.num_agents), spaces.Tuple([spaces.Discrete(spec.num_actions)] * spec.num_agents)


def encode(
    observation: Any, observation_space: spaces.Tuple, spec: TeamSpec, needs_state: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One team observation as arrays.

    Args:
        observation: an entry per agent.
        observation_space: the team's, with a state.
        spec: its sizes.
        needs_state: if not, a missing state is zeros: local observations are all there is in execution.

    Returns:
        obs ``[N, O]``, state ``[S]``, action mask ``[N, A]`` bool.

    Raises:
        TeamEnvError: the state is missing.
    """
    obs = np.zeros((spec.num_agents, spec.obs_dim), spec.obs_dtype)
    mask = np.ones((spec.num_agents, spec.num_actions), bool)
    for i, (value, space) in enumerate(zip(observation, observation_space, strict=True)):
        if not isinstance(space, spaces.Dict) or OBS not in space.spaces:
            obs[i] = spaces.flatten(space, value)
            continue
        obs[i] = spaces.flatten(space[OBS], value[OBS])
        if spec.has_action_mask:
            mask[i] = np.asarray(value[ACTION_MASK]).astype(bool)
    if STATE in observation[0]:
        state = np.asarray(spaces.flatten(part_of(observation_space[0], STATE), observation[0][STATE]), spec.state_dtype)
    elif needs_state:
        raise TeamEnvError(f'the observation has no "{STATE}": the leader needs the one that the env has in training.')
    else:
        state = np.zeros(spec.state_dim, spec.state_dtype)
    return obs, state, mask


def part_of(agent_space: Any, name: str) -> Any:
    """The named part of an agent's observation space; a plain space is all ``obs``."""
    if isinstance(agent_space, spaces.Dict) and OBS in agent_space.spaces:
        return agent_space.spaces.get(name)
    return agent_space if name == OBS else None


def flat_dtype(space: Any) -> np.dtype:
    """The dtype of the space's flattened values; one-hots need no more than int8."""
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return np.dtype(np.int8)
    dtype = np.dtype(spaces.flatten_space(space).dtype)
    return np.dtype(np.float32) if dtype == np.float64 else dtype
