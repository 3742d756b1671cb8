"""RLlib's multi-agent envs as team envs, by the grouping convention of RLlib's QMIX.

Such an env is a ``MultiAgentEnv`` with one agent, the team (``with_agent_groups``). Its observation space is a
``Tuple`` with one entry per agent: a ``Dict`` with ``obs`` and, if the env has them, ``action_mask`` and ``state``; or
a plain space. Its action space is a ``Tuple`` of equal ``Discrete`` spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.wrappers.group_agents_wrapper import GROUP_INFO, GROUP_REWARDS

from rllib_ddn.envs.conventions import COMMON, RewardWatch, refuse_others, unpacked
from rllib_ddn.envs.single import TeamEnv
from rllib_ddn.envs.vector import joined
from rllib_ddn.team import (
    OBS,
    STATE,
    TeamEnvError,
    TeamSpec,
    common_dtype,
    encode,
    number,
    parts_of,
    team_members,
    unbounded_box,
)

MAX_INPUT_SIZE = 20_000  # numbers in an observation or a state, unless env_config says otherwise
TIMEOUTS = ("truncate", "terminate")


def as_team_env(env: Any, env_config: dict[str, Any]) -> TeamEnv:
    """The team env that an env is, or is made to be; its sizes and the keys for all envs are checked.

    Args:
        env: what an env creator returned.
        env_config: of which three keys are read here, whatever the env:

            - ``state``: ``"concat"`` makes the concatenated observations the state; ``"env"`` (default) is the
              env's own. An env that has several names them in its attribute ``state_choices``, and gives
              the one that is asked for itself.
            - ``max_input_size`` (20,000): most numbers in an observation or a state. The networks are for
              vectors; with images they would take all memory before anything is learned.
            - ``timeouts``: ``"truncate"`` (default) bootstraps at a time limit; ``"terminate"`` treats time limits as
              terminal, as PyMARL does: env runners store an episode that is truncated as one that is terminated (the
              second and the first case of Pardo et al. 2018).

    Raises:
        TeamEnvError: the env breaks the convention, is too large, or a key has no accepted value.
    """
    choice, choices = env_config.get("state", "env"), ("env", *getattr(env, "state_choices", ()), "concat")
    if choice not in choices:
        accepted = " or ".join(f'"{name}"' for name in choices)
        raise TeamEnvError(f'env_config["state"] is {accepted}; got {choice!r}.')
    if (timeouts := env_config.get("timeouts", TIMEOUTS[0])) not in TIMEOUTS:
        raise TeamEnvError(f'env_config["timeouts"] is "truncate" or "terminate"; got {timeouts!r}.')
    team = env if isinstance(env, TeamEnv) else GroupedTeam(env, concat=choice == "concat")
    if choice == "concat" and not team.concatenates:
        team.concatenate_state()
    most = env_config.get("max_input_size", MAX_INPUT_SIZE)
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise TeamEnvError(f'env_config["max_input_size"] is a positive integer; got {most!r}.')
    for name, size in (("an agent's observation", team.team_spec.obs_dim), ("the state", team.team_spec.state_dim)):
        if size > most:
            raise TeamEnvError(
                f"{name} has {size:,} numbers, more than {most:,}: the networks are for vectors, not for images. "
                "Choose "
                f'features, or set env_config={{"max_input_size": {size}}} to train on it all the same.'
            )
    return team


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
            f"{_kind(action_space)}, but a team has a Tuple of each (obs_space=..., act_space=... of "
            "with_agent_groups()). "
            f"{how}"
        )
    return (ids[0] if ids else "team"), observation_space, action_space


class GroupedTeam(TeamEnv):
    """A grouped ``MultiAgentEnv``.

    Args:
        env: the env. Where its observations have no ``state``, it has a ``state_space`` and a method ``state()``.
        concat: whether the state is the concatenated observations.

    Raises:
        TeamEnvError: the env breaks the convention.
    """

    def __init__(self, env: MultiAgentEnv, concat: bool = False):
        self.team, observation_space, action_space = team_of(env)
        self.env = env
        self._observed: tuple[Any, ...] = ()
        ids = next(iter(getattr(env, "groups", {}).values()), None)  # of RLlib's GroupAgentsWrapper
        members = team_members(observation_space, action_space, ids)
        parts = [parts_of(space) for space in observation_space]
        self._in_dict = [entries is not None for entries in parts]
        space: Any = getattr(env, "state_space", None)
        offered = isinstance(space, spaces.Space) and callable(getattr(env, "state", None))
        self._calls_state = offered and not concat and members[0].state_space is None
        self.state_space = space if self._calls_state else members[0].state_space
        self._adds_state = concat or self._calls_state
        if concat:
            space = unbounded_box((sum(member.obs_dim for member in members),), common_dtype(members))
        if self._adds_state:
            observation_space = spaces.Tuple(
                spaces.Dict({**(entries or {OBS: plain}), STATE: space})
                for plain, entries in zip(observation_space, parts, strict=True)
            )
        super().__init__(TeamSpec.from_spaces(observation_space, action_space), members)
        self.concatenates, self.render_mode = concat, getattr(env, "render_mode", None)
        self._watch = RewardWatch(env, hints=False)
        self._set_spaces(observation_space, action_space)

    @property
    def shown(self) -> MultiAgentEnv:
        return self if self._adds_state else self.env

    def start(self, seed: int | None, options: dict[str, Any] | None = None) -> dict[str, Any]:
        observations, infos = unpacked(self.env, "reset", self.env.reset(seed=seed, options=options))
        self._observe(observations)
        return self._team_info(infos)

    def advance(self, actions: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        chosen = tuple(member.first_action + int(a) for member, a in zip(self.members, actions, strict=True))
        result = unpacked(self.env, "step", self.env.step({self.team: chosen}))
        observations, rewards, terminateds, truncateds, infos = result
        terminated = self._flag(terminateds, "terminateds")
        truncated = self._flag(truncateds, "truncateds") and not terminated
        self._observe(observations, terminated, truncated)
        refuse_others(rewards, [self.team], "a reward")
        info = self._team_info(infos)
        if GROUP_REWARDS in info:
            self.member_rewards = info[GROUP_REWARDS]
            self._watch(self.member_rewards, terminated or truncated)
        return number(rewards.get(self.team, 0.0), f"team {self.team!r}"), terminated, truncated, info

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _observe(self, observations: Mapping[Any, Any], terminated: bool = False, truncated: bool = False) -> None:
        if self.team not in observations:
            raise TeamEnvError(
                f"the env returned no observation for its team {self.team!r} (got {list(observations)}): a team is "
                "observed at every step, the last one included."
            )
        refuse_others(observations, [self.team], "an observation")
        self._observed = observations[self.team]
        self.obs, self.action_mask, state = encode(self._observed, self.members, self.team_spec)
        if self._calls_state:
            self.read_state(self.env.state, terminated, truncated)
        elif not self.concatenates:
            if state is None:
                raise TeamEnvError(f'the observation has no "{STATE}", which its space has.')
            self.state = state

    def _observation(self) -> tuple[Any, ...]:
        if not self._adds_state:
            return tuple(self._observed)
        state = np.copy(self.seen()[1]) if self.concatenates else self.given_state
        return tuple(
            {**(value if in_dict else {OBS: value}), STATE: state}
            for value, in_dict in zip(self._observed, self._in_dict, strict=True)
        )

    def _team_info(self, infos: Mapping[Any, Any]) -> dict[str, Any]:
        """The team's info; where RLlib has grouped the members' infos, with their entries."""
        refuse_others(infos, [self.team, COMMON], "an info")
        info = infos.get(self.team, {})
        return {**joined(info.get(GROUP_INFO, ())), **info}

    def _flag(self, flags: Mapping[Any, bool], name: str) -> bool:
        """Whether the episode ends: for the team, which is all that there is, or for ``"__all__"``."""
        if self.team not in flags and "__all__" not in flags:
            raise TeamEnvError(
                f'the env\'s {name} have neither "__all__" nor its team {self.team!r} (got {list(flags)}).'
            )
        return bool(flags.get("__all__")) or bool(flags.get(self.team))


def _kind(space: Any) -> str:
    return "missing" if space is None else type(space).__name__
