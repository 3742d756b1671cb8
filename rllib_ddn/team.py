"""A team's game in numbers: its sizes, and its observations as arrays.

A team has N agents with a common reward. RLlib's QMIX set the convention for its spaces (``with_agent_groups``):
the observation space is a ``Tuple`` with one entry per agent, a ``Dict`` with ``obs`` and, if the env has them,
``action_mask`` and ``state``, or a plain space; the action space is a ``Tuple`` of equal ``Discrete`` spaces.

Nothing here imports Ray.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from rllib_ddn.checks import TeamEnvError, check_values, entries, flat_numbers
from rllib_ddn.names import did_you_mean

OBS, ACTION_MASK, STATE = "obs", "action_mask", "state"


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
                    f"the action space of agent {i} is {space}; actions must be Discrete(n) starting at 0. Discretize them."
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
        masks = [part_of(space, ACTION_MASK) for space in agents]
        for i, mask in enumerate(masks):
            if (mask is None) != (masks[0] is None):
                one, other = (i, 0) if mask is None else (0, i)
                raise TeamEnvError(
                    f'agent {one} has no "action_mask", but agent {other} has: give all agents one, of ones where all is allowed.'
                )
            if mask is not None and spaces.flatdim(mask) != num_actions:
                raise TeamEnvError(
                    f'"action_mask" of agent {i} has the space {mask}, but there are {num_actions} actions.'
                )
        return cls(
            num_agents=num_agents,
            num_actions=num_actions,
            obs_dim=dims.pop(),
            state_dim=spaces.flatdim(state),
            obs_dtype=np.result_type(*(flat_dtype(space) for space in obs)),
            state_dtype=flat_dtype(state),
            has_action_mask=masks[0] is not None,
        )


class Member(NamedTuple):
    """An agent as it is outside of its team, before it is padded.

    Attributes:
        id: its name in the env; its number where the env has no names.
        observation_space: what it observes, without mask and state.
        num_actions: number of its own actions.
        has_action_mask: whether its observation comes with a mask.
        mask_in_info: whether its info may have one instead, as PettingZoo allows; without it all actions are available.
    """

    id: Any
    observation_space: spaces.Space
    num_actions: int
    has_action_mask: bool
    mask_in_info: bool = False


def team_spaces(spec: TeamSpec) -> tuple[spaces.Tuple, spaces.Tuple]:
    """The observation and action space of a team whose agents have ``obs``, ``action_mask`` and ``state``."""
    agent = spaces.Dict(
        {
            OBS: unbounded_box((spec.obs_dim,), spec.obs_dtype),
            ACTION_MASK: spaces.Box(0, 1, (spec.num_actions,), np.int8),
            STATE: unbounded_box((spec.state_dim,), spec.state_dtype),
        }
    )
    return spaces.Tuple([agent] * spec.num_agents), spaces.Tuple([spaces.Discrete(spec.num_actions)] * spec.num_agents)


def unbounded_box(shape: tuple[int, ...], dtype: np.dtype) -> spaces.Box:
    """A ``Box`` of all numbers of a dtype; booleans become int8 between 0 and 1."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return spaces.Box(limits.min, limits.max, shape, dtype.type)
    if dtype == np.bool_:
        return spaces.Box(0, 1, shape, np.int8)
    return spaces.Box(-np.inf, np.inf, shape, dtype.type)


def encode(
    observation: Any, observation_space: spaces.Tuple, spec: TeamSpec, needs_state: bool = True, when: str = ""
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One team observation as arrays, checked.

    Args:
        observation: an entry per agent.
        observation_space: the team's, with a state.
        spec: its sizes.
        needs_state: if not, a missing state is zeros: local observations are all there is in execution.
        when: for the errors, such as " at step 3".

    Returns:
        obs ``[N, O]``, state ``[S]``, action mask ``[N, A]`` bool.

    Raises:
        TeamEnvError: a part is missing, does not fit its space, or :func:`check_values` refuses it.
    """
    if len(observation) != spec.num_agents:
        raise TeamEnvError(
            f"the team's observation has {len(observation)} entries{when}, but there are {spec.num_agents} agents."
        )
    obs = np.zeros((spec.num_agents, spec.obs_dim), spec.obs_dtype)
    mask = np.ones((spec.num_agents, spec.num_actions), bool)
    for i, (value, space) in enumerate(zip(observation, observation_space, strict=True)):
        if not isinstance(space, spaces.Dict) or OBS not in space.spaces:
            obs[i] = flatten(space, value, f"the observation of agent {i}{when}")
            continue
        obs[i] = flatten(space[OBS], _entry(value, OBS, i, when), f'"{OBS}" of agent {i}{when}')
        if spec.has_action_mask:
            mask[i] = flatten(
                space[ACTION_MASK], _entry(value, ACTION_MASK, i, when), f'"{ACTION_MASK}" of agent {i}{when}'
            )
    if isinstance(observation[0], dict) and STATE in observation[0]:
        space = part_of(observation_space[0], STATE)
        state = np.asarray(flatten(space, observation[0][STATE], f'"{STATE}" of agent 0{when}'), spec.state_dtype)
    elif needs_state:
        raise TeamEnvError(f'the observation has no "{STATE}"{when}: training needs it, and a leader that acts.')
    else:
        state = np.zeros(spec.state_dim, spec.state_dtype)
    check_values(obs, state, mask, when)
    return obs, state, mask


def flatten(space: spaces.Space, value: Any, what: str) -> np.ndarray:
    """As Gymnasium's ``flatten()``, with errors that say what is wrong.

    Args:
        space: the value's.
        value: to be flattened.
        what: the value's name in errors.

    Raises:
        TeamEnvError: the value has not as many numbers as its space, or a fraction, NaN or a number out of
            range where the space has whole numbers.
    """
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return np.concatenate([flatten(*entry) for entry in entries(space.spaces, value, what)])
    if space.shape is None or space.dtype is None:  # no numbers
        return np.asarray(spaces.flatten(space, value))
    one_hot = not isinstance(space, spaces.MultiBinary)
    return flat_numbers(value, what, space, space.shape, space.dtype, **discrete(space), one_hot=one_hot)


def discrete(space: spaces.Space) -> dict[str, Any]:
    """What :func:`rllib_ddn.checks.flat_numbers` wants to know of a discrete space; nothing of another."""
    if isinstance(space, spaces.Discrete):
        return {"counts": [int(space.n)], "start": [int(space.start)]}
    if isinstance(space, spaces.MultiDiscrete):
        return {"counts": space.nvec.flatten().tolist(), "start": space.start.flatten().tolist()}
    if isinstance(space, spaces.MultiBinary):
        size = spaces.flatdim(space)
        return {"counts": [2] * size, "start": [0] * size}
    return {}


def _entry(value: Any, name: str, agent: int, when: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        given = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise TeamEnvError(f'the observation of agent {agent} has no "{name}"{when}, which its space has; got {given}.')
    return value[name]


def refuse_unknown_keys(env: str, given: Iterable[str], accepted: Iterable[str]) -> None:
    """Checks the names in an ``env_config``.

    Args:
        env: the env's name.
        given: the keys.
        accepted: those that there are.

    Raises:
        TeamEnvError: a key is unknown; the message has the nearest one.
    """
    known = sorted(accepted)
    for key in given:
        if key not in known:
            raise TeamEnvError(f"env_config[{key!r}] of {env} is unknown; {did_you_mean(key, known)}")


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
