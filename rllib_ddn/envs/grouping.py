"""Teams as RLlib knows them: the grouping convention of RLlib's QMIX, checked and vectorized.

A *team env* is a ``MultiAgentEnv`` with one agent, the team (``with_agent_groups``). Its
observation space is a ``Tuple`` with one entry per agent: a ``Dict`` with ``obs`` and, if the env
has them, ``action_mask`` and ``state``; or a plain space. Its action space is a ``Tuple`` of equal
``Discrete`` spaces.

:func:`as_team_env` checks an env against the convention and names what is wrong in one line;
:class:`TeamGames` makes a vector env of ordinary team envs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.wrappers.group_agents_wrapper import GROUP_INFO

from rllib_ddn.envs.vector import BROKEN, TIMEOUTS, VectorTeamEnv, joined
from rllib_ddn.team import (
    ACTION_MASK,
    OBS,
    STATE,
    Member,
    TeamEnvError,
    TeamSpec,
    encode,
    flat_dtype,
    flatten,
    part_of,
    unbounded_box,
)

__all__ = ["MAX_INPUT_SIZE", "TeamGames", "as_team_env", "members_of", "team_of"]

_logger = logging.getLogger(__name__)

MAX_INPUT_SIZE = 20_000  # numbers in an observation or a state, unless env_config says otherwise


def as_team_env(env: Any, env_config: dict[str, Any]) -> MultiAgentEnv:
    """Checks a team env and completes it with a global state where it is offered another way.

    Args:
        env: what an env creator returned.
        env_config: of which three keys are read here, whatever the env:

            - ``state``: ``"concat"`` makes the concatenated observations the state; ``"env"`` (default) is the
              env's own. An env that has several names them in its attribute ``state_choices``, and gives
              the one that is asked for itself.
            - ``max_input_size`` (20,000): most numbers in an observation or a state. The networks are for
              vectors; with images they would take all memory before anything is learned.
            - ``timeouts``: ``"truncate"`` (default) estimates what would have come after a time limit; with
              ``"terminate"`` nothing would have, as in PyMARL: env runners store an episode that is truncated as
              one that is terminated (the second and the first case of Pardo et al. 2018).

    Returns:
        The env itself, or the env in a thin wrapper that adds ``state`` to the observations.

    Raises:
        TeamEnvError: the env breaks the convention.
    """
    _, observation_space, action_space = team_of(env)
    choice, choices = env_config.get("state", "env"), ("env", *getattr(env, "state_choices", ()), "concat")
    if choice not in choices:
        accepted = " or ".join(f'"{name}"' for name in choices)
        raise TeamEnvError(f'env_config["state"] is {accepted}; got {choice!r}.')
    if (timeouts := env_config.get("timeouts", TIMEOUTS[0])) not in TIMEOUTS:
        raise TeamEnvError(f'env_config["timeouts"] is "truncate" or "terminate"; got {timeouts!r}.')
    if choice == "concat" or part_of(observation_space[0], STATE) is None:
        offered = isinstance(getattr(env, "state_space", None), spaces.Space) and callable(getattr(env, "state", None))
        if choice == "concat" or offered:
            env = _WithState(env, concat=choice == "concat")
            observation_space = env.observation_space
    _check_size(TeamSpec.from_spaces(observation_space, action_space), env_config.get("max_input_size", MAX_INPUT_SIZE))
    return env


def _check_size(spec: TeamSpec, most: Any) -> None:
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise TeamEnvError(f'env_config["max_input_size"] is a whole number above 0; got {most!r}.')
    for name, size in (("an agent's observation", spec.obs_dim), ("the state", spec.state_dim)):
        if size > most:
            raise TeamEnvError(
                f"{name} has {size:,} numbers, more than {most:,}: the networks are for vectors, not for images. Choose features, "
                f'or set env_config={{"max_input_size": {size}}} to train on it all the same.'
            )


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
        raise TeamEnvError(
            f"{type(env).__name__} has {len(ids)} agents or groups ({shown}), but one team is trained. {how}"
        )
    if not isinstance(observation_space, spaces.Tuple) or not isinstance(action_space, spaces.Tuple):
        raise TeamEnvError(
            f"{type(env).__name__} is not grouped: its observation and action space are {_kind(observation_space)} and "
            f"{_kind(action_space)}, but a team has a Tuple of each (obs_space=..., act_space=... of with_agent_groups()). {how}"
        )
    return (ids[0] if ids else "team"), observation_space, action_space


def members_of(env: Any) -> list[Member]:
    """A team env's agents: the env's own ``members``; else those that RLlib has grouped, or numbered ones.

    Raises:
        TeamEnvError: see :func:`team_of`.
    """
    if isinstance(env, _WithState):
        env = env.env
    if hasattr(env, "members"):
        return list(env.members)
    _, observation_space, action_space = team_of(env)
    ids = next(
        iter(getattr(env, "groups", {}).values()), range(len(observation_space))
    )  # of RLlib's GroupAgentsWrapper
    return [
        Member(name, part_of(space, OBS), int(action.n), part_of(space, ACTION_MASK) is not None)
        for name, space, action in zip(ids, observation_space, action_space, strict=True)
    ]


class TeamGames(VectorTeamEnv):
    """Ordinary team envs, stepped one after the other.

    An env that can step many games at once offers a method ``vectorize(num_envs)`` that returns a
    :class:`rllib_ddn.envs.vector.VectorTeamEnv` of its own.

    Args:
        envs: E team envs.
        replace: makes another env in the place of env e, when that has raised: its episode is broken, the others go on.
            None: the exception goes on.
    """

    def __init__(self, envs: list[MultiAgentEnv], replace: Callable[[int], MultiAgentEnv] | None = None):
        self._envs, self._replace = envs, replace
        self._team, self._observation_space, action_space = team_of(envs[0])
        self.spec = TeamSpec.from_spaces(self._observation_space, action_space)
        self.episode_limit = None
        spec, count = self.spec, len(envs)
        self.obs = np.zeros((count, spec.num_agents, spec.obs_dim), spec.obs_dtype)
        self.state = np.zeros((count, spec.state_dim), spec.state_dtype)
        self.action_mask = np.ones((count, spec.num_agents, spec.num_actions), bool)
        self._infos: list[dict[str, Any]] = [{} for _ in envs]
        self._steps = np.zeros(count, int)

    def reset(self, seeds: np.ndarray) -> None:
        """Starts a new episode in the first ``len(seeds)`` envs, each with its own seed.

        Raises:
            TeamEnvError: an observation does not fit its space.
        """
        for e, seed in enumerate(seeds):
            try:
                observation, info = self._envs[e].reset(seed=int(seed))
            except Exception as error:
                self._recover(e, error)
                observation, info = self._envs[e].reset(seed=int(seed))
            self._infos[e], self._steps[e] = self._team_info(info), 0
            self._observe(e, observation)

    def step(self, actions: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps the given envs.

        Raises:
            TeamEnvError: an observation does not fit its space, a reward is not a number, or they are of another agent
                than the team.
        """
        rewards = np.zeros(len(envs), np.float32)
        terminated, truncated = np.zeros(len(envs), bool), np.zeros(len(envs), bool)
        for row, e in enumerate(envs.tolist()):
            team_action = tuple(int(action) for action in actions[row])
            try:
                observation, reward, terminateds, truncateds, info = self._envs[e].step({self._team: team_action})
            except Exception as error:
                self._recover(e, error)
                terminated[row], self._infos[e] = True, {BROKEN: True}
                continue
            self._steps[e] += 1
            self._observe(e, observation)
            self._refuse_others(reward, "a reward", e)
            rewards[row] = self._number(reward.get(self._team, 0.0), e)
            terminated[row], truncated[row] = (
                self._flag(terminateds, "terminateds"),
                self._flag(truncateds, "truncateds"),
            )
            self._infos[e] = self._team_info(info)
        return rewards, terminated, truncated

    def info(self, env: int) -> dict[str, Any]:
        """The team's info from the last reset or step of one env."""
        return self._infos[env]

    def _team_info(self, infos: dict[str, Any]) -> dict[str, Any]:
        """The team's info; where RLlib has grouped the members' infos, with their entries."""
        info = infos.get(self._team, {})
        return {**joined(info.get(GROUP_INFO, ())), **info}

    def _recover(self, e: int, error: Exception) -> None:
        """Replaces env e, which has raised; or raises the exception."""
        if self._replace is None or isinstance(error, TeamEnvError):
            raise error
        what = " ".join(f"{type(error).__name__}: {error}".split())
        _logger.warning("env %d raised %s after step %d; it is made anew", e, what, self._steps[e])
        self._envs[e] = self._replace(e)

    def _observe(self, e: int, observation: dict[Any, Any]) -> None:
        if self._team not in observation:
            raise TeamEnvError(
                f"the env returned no observation for its team {self._team!r} (got {list(observation)}): a team is observed at "
                "every step, the last one included."
            )
        self._refuse_others(observation, "an observation", e)
        self.obs[e], self.state[e], self.action_mask[e] = encode(
            observation[self._team], self._observation_space, self.spec, when=f" at step {self._steps[e]}"
        )

    def _refuse_others(self, of_agents: dict[Any, Any], what: str, e: int) -> None:
        """Refuses what nobody would ever see."""
        others = [agent for agent in of_agents if agent != self._team]
        if others:
            raise TeamEnvError(
                f"the env gave {what} to {others[0]!r} at step {self._steps[e]}; its one team is {self._team!r}, which gets all "
                "observations and rewards."
            )

    def _flag(self, flags: dict[Any, bool], name: str) -> bool:
        """Whether the episode ends: for the team, which is all that there is, or for ``"__all__"``."""
        if self._team not in flags and "__all__" not in flags:
            raise TeamEnvError(
                f'the env\'s {name} have neither "__all__" nor its team {self._team!r} (got {list(flags)}).'
            )
        return bool(flags.get("__all__")) or bool(flags.get(self._team))

    def _number(self, reward: Any, e: int) -> float:
        array = np.asarray(reward)
        if array.dtype.kind not in "biuf" or array.size != 1:
            raise TeamEnvError(
                f"the env gave its team {self._team!r} the reward {reward!r} at step {self._steps[e]}; a reward is a finite number."
            )
        return float(array.item())


class _WithState(MultiAgentEnv):
    """A team env whose observations get a ``state``: from ``env.state()``, or concatenated."""

    def __init__(self, env: MultiAgentEnv, concat: bool):
        super().__init__()
        self.env, self._concat = env, concat
        self._team, observation_space, self.action_space = team_of(env)
        obs = [part_of(space, OBS) for space in observation_space]
        if concat:
            dtype = np.result_type(*(flat_dtype(space) for space in obs))
            self._parts = obs
            state_space: spaces.Space = unbounded_box((sum(map(spaces.flatdim, obs)),), dtype)
        else:
            state_space = env.state_space
        self._is_dict = [isinstance(space, spaces.Dict) and OBS in space.spaces for space in observation_space]
        self.observation_space = spaces.Tuple(
            spaces.Dict({**(space.spaces if is_dict else {OBS: space}), STATE: state_space})
            for space, is_dict in zip(observation_space, self._is_dict, strict=True)
        )
        self.possible_agents = self.agents = [self._team]
        self.render_mode = getattr(env, "render_mode", None)
        self.observation_spaces = {self._team: self.observation_space}
        self.action_spaces = {self._team: self.action_space}
        if concat and hasattr(env, "vectorize"):
            self.vectorize = lambda num_envs: _ConcatenatingGames(env.vectorize(num_envs))

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
        if self._team not in observation:
            return observation  # which TeamGames refuses
        agents = [
            dict(value) if is_dict else {OBS: value}
            for value, is_dict in zip(observation[self._team], self._is_dict, strict=True)
        ]
        if self._concat:
            parts = enumerate(zip(self._parts, agents, strict=True))
            state = np.concatenate(
                [flatten(space, agent.get(OBS), f'"{OBS}" of agent {i}') for i, (space, agent) in parts]
            )
        else:
            state = self.env.state()
        return {**observation, self._team: tuple({**agent, STATE: state} for agent in agents)}


class _ConcatenatingGames(VectorTeamEnv):
    """A vector env whose state is the agents' observations, one behind the other: what :class:`_WithState` is to a single env."""

    def __init__(self, games: VectorTeamEnv):
        self._games, spec = games, games.spec
        self.spec = replace(spec, state_dim=spec.num_agents * spec.obs_dim, state_dtype=spec.obs_dtype)
        self.episode_limit, self.names = games.episode_limit, games.names
        self._observe()

    def reset(self, seeds: np.ndarray) -> None:
        self._games.reset(seeds)
        self._observe()

    def step(self, actions: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        outcome = self._games.step(actions, envs)
        self._observe()
        return outcome

    def info(self, env: int) -> dict[str, Any]:
        return self._games.info(env)

    def close(self) -> None:
        self._games.close()

    def _observe(self) -> None:
        self.obs, self.action_mask = self._games.obs, self._games.action_mask
        self.state = self.obs.reshape(len(self.obs), -1)  # [E, N, O] as [E, N * O]


def _kind(space: Any) -> str:
    return "missing" if space is None else type(space).__name__
