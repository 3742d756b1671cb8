"""A team in numbers: its sizes, and the observations of its agents as arrays.

A team has N agents with a common reward. RLlib's QMIX set the convention for its spaces (``with_agent_groups``):
the observation space is a ``Tuple`` with one entry per agent, a ``Dict`` with ``obs`` and, if the env has them,
``action_mask`` and ``state``, or a plain space; the action space is a ``Tuple`` of equal ``Discrete`` spaces.

Nothing here imports Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces

from rllib_ddn.checks import TeamEnvError, entries, flat_numbers
from rllib_ddn.names import did_you_mean

OBS, ACTION_MASK, STATE = "obs", "action_mask", "state"
OBS_KEYS = (OBS, "observation", "observations")  # of a Dict in which an action mask or a state may stand, too


@dataclass(frozen=True)
class TeamSpec:
    """The sizes of a team's env.

    Attributes:
        num_agents: N.
        num_actions: A.
        obs_dim: O, length of an agent's flattened observation.
        state_dim: S, length of the flattened global state.
        obs_dtype, state_dtype: as the env has them; one-hots of discrete spaces are int8.
    """

    num_agents: int
    num_actions: int
    obs_dim: int
    state_dim: int
    obs_dtype: np.dtype
    state_dtype: np.dtype

    @classmethod
    def from_spaces(cls, observation_space: spaces.Tuple, action_space: spaces.Tuple) -> TeamSpec:
        """The sizes in a team's spaces.

        Raises:
            TeamEnvError: the spaces break the convention, or have no state.
        """
        members = team_members(observation_space, action_space)
        dims = {member.obs_dim for member in members}
        if len(dims) > 1:
            raise TeamEnvError(
                f"the agents have observations of different lengths {sorted(dims)}: pad them to the longest (the "
                '"pettingzoo" env does it by itself).'
            )
        if members[0].state_space is None:
            raise TeamEnvError(
                'the env offers no global state: put "state" into each agent\'s Dict observation, give the env a '
                '`state_space` and a `state()` method, or choose env_config={"state": "concat"} to use the '
                "concatenated observations."
            )
        return cls.of(members, spaces.flatdim(members[0].state_space), flat_dtype(members[0].state_space))

    @classmethod
    def of(cls, members: Sequence[Member], state_dim: int, state_dtype: np.dtype) -> TeamSpec:
        """The sizes of a team of these agents, padded to the largest."""
        return cls(
            num_agents=len(members),
            num_actions=max(member.num_actions for member in members),
            obs_dim=max(member.obs_dim for member in members),
            state_dim=state_dim,
            obs_dtype=common_dtype(members),
            state_dtype=state_dtype,
        )

    def with_concatenated_state(self) -> TeamSpec:
        """The same, with the agents' observations, one behind the other, as the state."""
        return replace(self, state_dim=self.num_agents * self.obs_dim, state_dtype=self.obs_dtype)


@dataclass(frozen=True)
class Member:
    """An agent as its env has it, before it is padded to the sizes of its team.

    Attributes:
        id: its name in the env; its number where the env has no names.
        observation_space: what it observes, without mask and state.
        num_actions: number of its own actions.
        has_action_mask: whether its observation comes with a mask.
        mask_in_info: whether its info may have one instead, as PettingZoo allows; without it all actions are available.
        key: where ``observation_space`` is one entry of the observation's Dict, its key.
        first_action: what the env calls action 0: ``start`` of its Discrete space.
        state_space: of the global state that comes with its observation, if any.
    """

    id: Any
    observation_space: spaces.Space
    num_actions: int
    has_action_mask: bool = False
    mask_in_info: bool = False
    key: str | None = None
    first_action: int = 0
    state_space: spaces.Space | None = None

    @classmethod
    def of(cls, agent: Any, observation_space: spaces.Space, action_space: Any, mask_in_info: bool = False) -> Member:
        """Reads an agent's spaces. In a Dict with ``action_mask`` or one of ``OBS_KEYS``, ``action_mask`` and
        ``state`` are what they are called, and the agent observes all other entries.

        Raises:
            TeamEnvError: the actions are not discrete, or the mask has another size.
        """
        if not isinstance(action_space, spaces.Discrete):
            raise TeamEnvError(
                f"the action space of agent {agent!r} is {action_space}; actions must be Discrete(n). Discretize them."
            )
        count, first = int(action_space.n), int(action_space.start)
        parts = parts_of(observation_space)
        if parts is None:
            return cls(agent, observation_space, count, False, mask_in_info, None, first)
        mask, state = parts.pop(ACTION_MASK, None), parts.pop(STATE, None)
        if mask is not None and spaces.flatdim(mask) != count:
            raise TeamEnvError(
                f'"{ACTION_MASK}" of agent {agent!r} has the space {mask}, but there are {count} actions.'
            )
        if not parts:
            raise TeamEnvError(f"the observation space of agent {agent!r} has nothing to observe: {observation_space}.")
        key = next(iter(parts)) if len(parts) == 1 else None
        observed = spaces.Dict(parts) if key is None else parts[key]
        return cls(agent, observed, count, mask is not None, mask_in_info, key, first, state)

    @property
    def obs_dim(self) -> int:
        """Length of its flattened observation."""
        return int(spaces.flatdim(self.observation_space))

    def read(self, value: Any, mask_in_info: Any = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Its observation as numbers, and its available actions ``[num_actions]``; None: all.

        Args:
            value: what the env has given it.
            mask_in_info: the mask in its info, which counts where its observation has none.

        Raises:
            TeamEnvError: an entry is missing, or does not fit its space.
        """
        if self.key is None:
            obs = flatten(self.observation_space, value, f"the observation of agent {self.id!r}")
        else:
            obs = flatten(self.observation_space, self._entry(value, self.key), f'"{self.key}" of agent {self.id!r}')
        mask = mask_in_info
        if self.has_action_mask and (mask is None or ACTION_MASK in value):
            mask = self._entry(value, ACTION_MASK)
        if mask is not None:
            name, shape = f'"{ACTION_MASK}" of agent {self.id!r}', (self.num_actions,)
            mask = flat_numbers(mask, name, f"Box(0, 1, {shape}, int8)", shape, np.int8)
        return obs, mask

    def _entry(self, value: Any, key: str) -> Any:
        if not isinstance(value, Mapping) or key not in value:
            given = sorted(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise TeamEnvError(
                f'the observation of agent {self.id!r} has no "{key}", which its space has; got {given}.'
            )
        return value[key]


def common_dtype(members: Iterable[Member]) -> np.dtype:
    """The dtype of all their observations."""
    return np.dtype(np.result_type(*(flat_dtype(member.observation_space) for member in members)))


def parts_of(space: Any) -> dict[str, spaces.Space] | None:
    """The entries of an agent's observation space, where ``action_mask`` and ``state`` have their meaning; else
    None.
    """
    if isinstance(space, spaces.Dict) and any(key in space.spaces for key in (ACTION_MASK, *OBS_KEYS)):
        return dict(space.spaces)
    return None


def team_members(
    observation_space: spaces.Tuple, action_space: spaces.Tuple, ids: Iterable[Any] | None = None
) -> list[Member]:
    """The agents of a team's spaces.

    Args:
        ids: their names; by default they are numbered.

    Raises:
        TeamEnvError: there are not as many observation spaces as action spaces, the agents have different numbers of
            actions, or see :meth:`Member.of`.
    """
    if len(action_space) != len(observation_space):
        raise TeamEnvError(
            f"the team has {len(observation_space)} observation spaces but {len(action_space)} action spaces; give "
            "each "
            "agent one of both."
        )
    sizes = {int(space.n) for space in action_space if isinstance(space, spaces.Discrete)}
    if len(sizes) > 1:
        raise TeamEnvError(
            f"the agents have different numbers of actions {sorted(sizes)}: pad them to the largest and mask the rest "
            'with "action_mask" (the "pettingzoo" env does it by itself).'
        )
    names = range(len(observation_space)) if ids is None else ids
    return [Member.of(*agent) for agent in zip(names, observation_space, action_space, strict=True)]


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
    observation: Sequence[Any], members: Sequence[Member], spec: TeamSpec
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """A team's observation as arrays.

    Args:
        observation: an entry per agent, with the state in the first one's, if there is one.
        members: the agents.
        spec: their sizes.

    Returns:
        obs ``[N, O]``, action mask ``[N, A]`` bool, and the state ``[S]`` or None.

    Raises:
        TeamEnvError: an entry is missing, or does not fit its space.
    """
    if len(observation) != spec.num_agents:
        raise TeamEnvError(
            f"the team's observation has {len(observation)} entries, but there are {spec.num_agents} agents."
        )
    obs = np.zeros((spec.num_agents, spec.obs_dim), spec.obs_dtype)
    mask = np.ones((spec.num_agents, spec.num_actions), bool)
    for i, (member, value) in enumerate(zip(members, observation, strict=True)):
        obs[i], available = member.read(value)
        if available is not None:
            mask[i] = available
    first, space = observation[0], members[0].state_space
    if space is None or not isinstance(first, dict) or STATE not in first:
        return obs, mask, None
    return obs, mask, flatten(space, first[STATE], f'"{STATE}" of agent {members[0].id!r}')


def flatten(space: Any, value: Any, what: str) -> np.ndarray:
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
    """``counts`` and ``start`` of a discrete space for :func:`rllib_ddn.checks.flat_numbers`; empty for another."""
    if isinstance(space, spaces.Discrete):
        return {"counts": [int(space.n)], "start": [int(space.start)]}
    if isinstance(space, spaces.MultiDiscrete):
        return {"counts": space.nvec.flatten().tolist(), "start": space.start.flatten().tolist()}
    if isinstance(space, spaces.MultiBinary):
        size = spaces.flatdim(space)
        return {"counts": [2] * size, "start": [0] * size}
    return {}


def flat_dtype(space: Any) -> np.dtype:
    """The dtype of the space's flattened values; one-hots need no more than int8."""
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return np.dtype(np.int8)
    dtype = np.dtype(spaces.flatten_space(space).dtype)
    return np.dtype(np.float32) if dtype == np.float64 else dtype


def number(reward: Any, whose: str) -> float:
    """A reward as a float: a number, or an array of one.

    Raises:
        TeamEnvError: it is something else.
    """
    array = np.asarray(reward)
    if array.dtype.kind not in "biuf" or array.size != 1:
        raise TeamEnvError(f"the reward of {whose} is {reward!r}; a reward is a finite number.")
    return float(array.item())


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
