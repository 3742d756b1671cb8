"""Teams as RLlib knows them: the grouping convention of RLlib's QMIX, checked and vectorized.

A *team env* is a ``MultiAgentEnv`` with one agent, the team (``with_agent_groups``). Its
observation space is a ``Tuple`` with one entry per agent: a ``Dict`` with ``obs`` and, if the env
has them, ``action_mask`` and ``state``; or a plain space. Its action space is a ``Tuple`` of equal
``Discrete`` spaces.

:func:`as_team_env` checks an env against the convention and names what is wrong in one line;
:class:`TeamSpec` holds the sizes; :class:`TeamGames` steps several envs as one set of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv

OBS, ACTION_MASK, STATE = "obs", "action_mask", "state"
BROKEN = "episode_broken"  # the key of a final info that says that the game failed: the episode does not count


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
        obs = [_part(space, OBS) for space in agents]
        dims = {spaces.flatdim(space) for space in obs}
        if len(dims) > 1:
            raise TeamEnvError(
                f"the agents have observations of different lengths {sorted(dims)}: pad them to the longest (the "
                '"pettingzoo" env does it by itself).'
            )
        state = _part(agents[0], STATE)
        if state is None:
            raise TeamEnvError(
                'the env offers no global state: put "state" into each agent\'s Dict observation, give the env a '
                '`state_space` and a `state()` method, or choose env_config={"state": "concat"} to use the '
                "concatenated observations."
            )
        mask = _part(agents[0], ACTION_MASK)
        if mask is not None and spaces.flatdim(mask) != num_actions:
            raise TeamEnvError(f'"action_mask" has the space {mask}, but there are {num_actions} actions.')
        return cls(
            num_agents=num_agents,
            num_actions=num_actions,
            obs_dim=dims.pop(),
            state_dim=spaces.flatdim(state),
            obs_dtype=np.result_type(*(_flat_dtype(space) for space in obs)),
            state_dtype=_flat_dtype(state),
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


def as_team_env(env: Any, env_config: dict[str, Any]) -> MultiAgentEnv:
    """Checks a team env and completes it with a global state where it is offered another way.

    Args:
        env: what an env creator returned.
        env_config: with ``"state": "concat"``, the concatenated observations become the state.

    Returns:
        The env itself, or the env in a thin wrapper that adds ``state`` to the observations.

    Raises:
        TeamEnvError: the env breaks the convention.
    """
    _, observation_space, action_space = team_of(env)
    choice = env_config.get("state", "env")
    if choice not in ("env", "concat"):
        raise TeamEnvError(f'env_config["state"] is "env" or "concat"; got {choice!r}.')
    if choice == "concat" or _part(observation_space[0], STATE) is None:
        offered = isinstance(getattr(env, "state_space", None), spaces.Space) and callable(getattr(env, "state", None))
        if choice == "concat" or offered:
            env = _WithState(env, concat=choice == "concat")
            observation_space = env.observation_space
    TeamSpec.from_spaces(observation_space, action_space)
    return env


def team_of(env: Any) -> tuple[Any, spaces.Tuple, spaces.Tuple]:
    """The team's agent id, ``Tuple`` observation space and ``Tuple`` action space.

    Raises:
        TeamEnvError: the env is not grouped, or has several groups.
    """
    how = 'Group all agents into one team with env.with_agent_groups(), or use the "pettingzoo" env.'
    if not isinstance(env, MultiAgentEnv):
        raise TeamEnvError(f"{type(env).__name__} is not a MultiAgentEnv. {how}")
    ids = list(getattr(env, "possible_agents", None) or getattr(env, "_agent_ids", None) or [])
    observation_space, action_space = getattr(env, "observation_space", None), getattr(env, "action_space", None)
    if isinstance(observation_space, spaces.Dict) and isinstance(action_space, spaces.Dict):
        ids = ids or list(observation_space)
        if len(ids) == 1:
            observation_space, action_space = observation_space[ids[0]], action_space[ids[0]]
    if len(ids) > 1:
        shown = ", ".join(map(repr, sorted(ids, key=str)[:4])) + (", ..." if len(ids) > 4 else "")
        raise TeamEnvError(f"{type(env).__name__} has {len(ids)} agents or groups ({shown}), DDN trains one team. {how}")
    if not isinstance(observation_space, spaces.Tuple) or not isinstance(action_space, spaces.Tuple):
        raise TeamEnvError(
            f"{type(env).__name__} is not grouped: its observation and action space are {_kind(observation_space)} and "
            f"{_kind(action_space)}, but a team has a Tuple of each (obs_space=..., act_space=... of with_agent_groups()). {how}"
        )
    return (ids[0] if ids else "team"), observation_space, action_space


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
        state = np.asarray(spaces.flatten(_part(observation_space[0], STATE), observation[0][STATE]), spec.state_dtype)
    elif needs_state:
        raise TeamEnvError(f'the observation has no "{STATE}": the leader needs the one that the env has in training.')
    else:
        state = np.zeros(spec.state_dim, spec.state_dtype)
    return obs, state, mask


class TeamGames:
    """Several team envs stepped as one set of arrays.

    This class steps ordinary team envs one by one. An env that can do better offers a method
    ``vectorize(num_envs)`` that returns an object with the same attributes and methods.

    Args:
        envs: E team envs.

    Attributes:
        spec: the :class:`TeamSpec`.
        episode_limit: most steps an episode can take, or None when unknown.
        obs: ``[E, N, O]``, state: ``[E, S]``, action_mask: ``[E, N, A]`` bool.
    """

    def __init__(self, envs: list[MultiAgentEnv]):
        self._envs = envs
        self._team, self._observation_space, action_space = team_of(envs[0])
        self.spec = TeamSpec.from_spaces(self._observation_space, action_space)
        self.episode_limit: int | None = None
        spec, count = self.spec, len(envs)
        self.obs = np.zeros((count, spec.num_agents, spec.obs_dim), spec.obs_dtype)
        self.state = np.zeros((count, spec.state_dim), spec.state_dtype)
        self.action_mask = np.ones((count, spec.num_agents, spec.num_actions), bool)
        self._infos: list[dict[str, Any]] = [{} for _ in envs]

    def reset(self, seeds: np.ndarray) -> None:
        """Starts a new episode in the first ``len(seeds)`` envs, each with its own seed."""
        for e, seed in enumerate(seeds):
            observation, _ = self._envs[e].reset(seed=int(seed))
            self._observe(e, observation)

    def step(self, actions: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps the given envs.

        Args:
            actions: ``[len(envs), N]`` action indices.
            envs: indices of the envs to step.

        Returns:
            Team rewards, terminated and truncated, each ``[len(envs)]``.
        """
        rewards = np.zeros(len(envs), np.float32)
        terminated, truncated = np.zeros(len(envs), bool), np.zeros(len(envs), bool)
        for row, e in enumerate(envs):
            team_action = tuple(int(action) for action in actions[row])
            observation, reward, done, cut, info = self._envs[e].step({self._team: team_action})
            self._observe(e, observation)
            rewards[row] = reward.get(self._team, 0.0)
            terminated[row], truncated[row] = done["__all__"], cut["__all__"]
            self._infos[e] = info.get(self._team, {})
        return rewards, terminated, truncated

    def info(self, env: int) -> dict[str, Any]:
        """The team's info from the last step of one env."""
        return self._infos[env]

    def _observe(self, e: int, observation: dict[Any, Any]) -> None:
        if self._team not in observation:
            raise TeamEnvError(
                f"the env returned no observation for its team {self._team!r} (got {list(observation)}): a team is observed at "
                "every step, the last one included."
            )
        self.obs[e], self.state[e], self.action_mask[e] = encode(observation[self._team], self._observation_space, self.spec)


class _WithState(MultiAgentEnv):
    """A team env whose observations get a ``state``: from ``env.state()``, or concatenated."""

    def __init__(self, env: MultiAgentEnv, concat: bool):
        super().__init__()
        self.env, self._concat = env, concat
        self._team, observation_space, self.action_space = team_of(env)
        obs = [_part(space, OBS) for space in observation_space]
        if concat:
            dtype: Any = np.result_type(*(_flat_dtype(space) for space in obs))
            self._parts = obs
            state_space: spaces.Space = spaces.Box(-np.inf, np.inf, (sum(map(spaces.flatdim, obs)),), dtype)
        else:
            state_space = env.state_space
        self._is_dict = [isinstance(space, spaces.Dict) and OBS in space.spaces for space in observation_space]
        self.observation_space = spaces.Tuple(
            spaces.Dict({**(space.spaces if is_dict else {OBS: space}), STATE: state_space})
            for space, is_dict in zip(observation_space, self._is_dict, strict=True)
        )
        self.possible_agents = self.agents = [self._team]
        self.observation_spaces = {self._team: self.observation_space}
        self.action_spaces = {self._team: self.action_space}

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        observation, info = self.env.reset(seed=seed, options=options)
        return self._add(observation), info

    def step(self, action_dict: dict):
        observation, *rest = self.env.step(action_dict)
        return (self._add(observation), *rest)

    def render(self):
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _add(self, observation: dict) -> dict:
        agents = [
            dict(value) if is_dict else {OBS: value} for value, is_dict in zip(observation[self._team], self._is_dict, strict=True)
        ]
        if self._concat:
            state = np.concatenate([spaces.flatten(space, agent[OBS]) for space, agent in zip(self._parts, agents, strict=True)])
        else:
            state = self.env.state()
        return {self._team: [{**agent, STATE: state} for agent in agents]}


def _part(agent_space: Any, name: str) -> Any:
    """The named part of an agent's observation space; a plain space is all ``obs``."""
    if isinstance(agent_space, spaces.Dict) and OBS in agent_space.spaces:
        return agent_space.spaces.get(name)
    return agent_space if name == OBS else None


def _flat_dtype(space: Any) -> np.dtype:
    """The dtype of the space's flattened values; one-hots need no more than int8."""
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return np.dtype(np.int8)
    dtype = np.dtype(spaces.flatten_space(space).dtype)
    return np.dtype(np.float32) if dtype == np.float64 else dtype


def _kind(space: Any) -> str:
    return "missing" if space is None else type(space).__name__
