"""Any cooperative PettingZoo ``ParallelEnv`` as a team env."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv

from rllib_ddn.envs.conventions import COMMON, RewardWatch, refuse_others, unpacked, warn_of_masks
from rllib_ddn.envs.single import TEAM_KEYS, TeamEnv
from rllib_ddn.envs.vector import joined, warn_once
from rllib_ddn.names import imported, is_custom, nearest
from rllib_ddn.team import (
    ACTION_MASK,
    STATE,
    Member,
    TeamEnvError,
    TeamSpec,
    flat_dtype,
    number,
    refuse_unknown_keys,
    unbounded_box,
)

ALL = "__all__"  # RLlib's key for all agents


class PettingZooTeam(TeamEnv):
    """Any PettingZoo ParallelEnv, its agents grouped into one team.

    Registered as ``"pettingzoo"``.
    Agents with smaller observation or action spaces are padded with zeros and masked. An agent
    that leaves before the episode is over stays in the team with an observation of zeros and
    action 0 as its only one.

    Args:
        config: the ``env_config``:

            - ``env``: the factory, ``"package.module:parallel_env"`` or a callable;
            - ``team_reward``: ``"sum"`` (default) or ``"mean"`` of the agents' rewards;
            - ``state``: ``"env"`` (default: ``state`` beside the agents' observations, or the env's ``state()``), or
              ``"concat"``, for which the env needs none: :func:`rllib_ddn.envs.grouping.as_team_env` concatenates the
              observations;
            - ``max_input_size``, ``timeouts``: see :func:`rllib_ddn.envs.grouping.as_team_env`;
            - every other key is an argument of the factory.

    Raises:
        TeamEnvError: a key is unknown or has no accepted value, the factory cannot be imported or makes no ParallelEnv,
            an action space is not discrete, or there is no state.
    """

    def __init__(self, config: dict[str, Any]):
        arguments = {key: value for key, value in config.items() if key == "state" or key not in TEAM_KEYS}
        name = arguments.pop("env", None)
        factory = _load(name)
        self._mean = _choice(arguments, "team_reward", ("sum", "mean")) == "mean"
        has_state = _choice(arguments, "state", ("env", "concat")) == "env"
        self.env = env = _parallel(_made(factory, name, arguments), name)
        self._ended: set[Any] = set()  # agents that have terminated or were truncated in this episode

        _, infos = unpacked(env, "reset", env.reset(seed=0))
        members = [
            Member.of(agent, env.observation_space(agent), env.action_space(agent), ACTION_MASK in infos.get(agent, {}))
            for agent in env.possible_agents
        ]
        self._observes_state = has_state and members[0].state_space is not None
        if has_state:
            self.state_space = members[0].state_space or self._space_of_state()
        state = self.state_space or spaces.Box(0, 1, (0,), np.float32)
        super().__init__(TeamSpec.of(members, spaces.flatdim(state), flat_dtype(state)), members)
        self.render_mode = getattr(env, "render_mode", None)
        self._ids = dict.fromkeys(member.id for member in members)
        for agent in self._ids:
            warn_of_masks(agent, infos.get(agent, {}))
        self._watch = RewardWatch(env, hints="team_reward" not in config)

    def start(self, seed: int | None, options: dict[str, Any] | None = None) -> dict[str, Any]:
        observations, infos = unpacked(self.env, "reset", self.env.reset(seed=seed, options=options))
        self._ended = set()
        self._observe(observations, infos, absent=set())
        self._observe_state(observations)
        return self._info(infos)

    def advance(self, actions: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """One step; the rewards of the agents still there are added up or averaged over the team."""
        present = set(self.env.agents)
        chosen = {
            member.id: member.first_action + int(action)
            for member, action in zip(self.members, actions, strict=True)
            if member.id in present
        }
        result = unpacked(self.env, "step", self.env.step(chosen))
        observations, rewards, terminations, truncations, infos = result
        refuse_others(rewards, self._ids, "a reward")
        terminated_now, truncated_now = self._flagged(terminations), self._flagged(truncations)
        # Who has terminated has nothing more to see; who is truncated now has a last observation to bootstrap from.
        absent = self._ended | terminated_now
        self._ended = absent | truncated_now
        finished = self._ended.issuperset(self.env.agents)
        if finished and self.env.agents and ALL not in terminations:
            warn_once(
                f"{self.env} has terminated or truncated all agents, but leaves {len(self.env.agents)} of them in its "
                "`agents`, which PettingZoo wants empty then. The episode is taken as ended."
            )
        # Truncated by a limit: at least one agent was still acting when the time ran out.
        truncated = finished and bool(truncated_now - terminated_now)
        terminated = finished and not truncated
        self._observe(observations, infos, absent)
        self._observe_state(observations, terminated, truncated)
        self.member_rewards = [number(rewards.get(agent, 0.0), f"agent {agent!r}") for agent in self._ids]
        self._watch(self.member_rewards, finished)
        reward = sum(self.member_rewards) / (len(self._ids) if self._mean else 1)
        return reward, terminated, truncated, self._info(infos)

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _flagged(self, flags: Mapping[Any, bool]) -> set[Any]:
        """The agents that a flag names; ``"__all__"``, as in RLlib, names all."""
        return set(self._ids) if flags.get(ALL) else {agent for agent, flag in flags.items() if flag}

    def _observe(self, observations: Mapping[Any, Any], infos: Mapping[Any, Any], absent: Collection[Any]) -> None:
        refuse_others(observations, self._ids, "an observation")
        self.obs[:], self.action_mask[:] = 0, False
        for i, member in enumerate(self.members):
            if member.id not in observations or member.id in absent:
                self.action_mask[i, 0] = True  # has left: a row of zeros, and nothing to choose
                continue
            obs, available = member.read(observations[member.id], infos.get(member.id, {}).get(ACTION_MASK))
            self.obs[i, : len(obs)] = obs
            self.action_mask[i, : member.num_actions] = True if available is None else available

    def _observe_state(self, observations: Mapping[Any, Any], *ends: bool) -> None:
        if self._observes_state:
            self.read_state(lambda: next(value[STATE] for value in observations.values()), *ends)
        elif self.state_space is not None:
            self.read_state(self.env.state, *ends)

    def _space_of_state(self) -> spaces.Space:
        """The env's ``state_space``, but for a Box: it is as large as a state is, and its dtype is that of
        ``state_space``, or else of the array that the env gives."""
        try:
            state = self.env.state()
        except (NotImplementedError, AttributeError):
            raise TeamEnvError(
                f'{self.env} has no state(): choose env_config={{"state": "concat"}} to use the concatenated '
                "observations."
            ) from None
        declared = getattr(self.env, "state_space", None)
        if isinstance(declared, spaces.Space) and not isinstance(declared, spaces.Box):
            return declared
        given = state.dtype if isinstance(state, np.ndarray) else np.dtype(np.float32)  # a list does not tell
        dtype = given if declared is None else flat_dtype(declared)
        return unbounded_box((np.size(state),), np.dtype(np.float32) if dtype == np.float64 else dtype)

    def _info(self, infos: Mapping[Any, Any]) -> dict[str, Any]:
        """The members' infos, and beside them each entry of the first member that has it: some have left."""
        everyone = {**self._ids, COMMON: None}
        refuse_others(infos, everyone, "an info")
        return {**joined(infos.get(agent, {}) for agent in everyone), "agents": infos}


def _load(env: Any):
    """The factory that ``env_config["env"]`` names."""
    if callable(env):
        return env
    example = 'env_config["env"] names a ParallelEnv factory, such as "pettingzoo.sisl.pursuit_v5:parallel_env"'
    if not is_custom(env):
        raise TeamEnvError(f"{example}; got {env!r}.")
    try:
        return imported(env)
    except ImportError as error:
        raise TeamEnvError(
            f"{example}; {env!r} cannot be imported: {error}{_siblings(env.partition(':')[0])}"
        ) from error


def _made(factory: Any, name: Any, arguments: dict[str, Any]) -> Any:
    """What the factory makes."""
    env = name if isinstance(name, str) else getattr(name, "__name__", str(name))
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # a built-in one
        return factory(**arguments)
    if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        if "render_mode" in arguments and "render_mode" not in (parameter.name for parameter in parameters):
            raise TeamEnvError(f"{env} cannot be rendered: it takes no render_mode.")
        refuse_unknown_keys(env, arguments, ["team_reward", *TEAM_KEYS, *(parameter.name for parameter in parameters)])
    try:
        return factory(**arguments)
    except TypeError as error:
        if "unexpected keyword argument" in str(error):  # of what the factory passes them on to
            raise TeamEnvError(f"env_config of {env} has a key that its factory does not take: {error}.") from error
        raise


def _parallel(env: Any, name: Any) -> Any:
    """The env itself, if it is a ParallelEnv."""
    if isinstance(env, AECEnv):
        module = name.split(":")[0] if isinstance(name, str) else "package.module"
        raise TeamEnvError(
            f'env_config["env"] = {name!r} is an AEC env, in which agents take turns: use "{module}:parallel_env".'
        )
    if not hasattr(env, "possible_agents"):
        raise TeamEnvError(f'env_config["env"] = {name!r} makes a {type(env).__name__}, which is no ParallelEnv.')
    return env


def _siblings(module: str) -> str:
    """A hint at the modules of the same package that are named alike, as other versions of an env are."""
    package, _, name = module.rpartition(".")
    try:
        found = [info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    except (ImportError, AttributeError, ValueError):
        return ""
    near = nearest(name, found, cutoff=0.8)
    return f" Installed is {package}.{near[0]}." if near else ""


def _choice(arguments: dict, key: str, accepted: tuple[str, ...]) -> str:
    value = arguments.pop(key, accepted[0])
    if value not in accepted:
        raise TeamEnvError(f"env_config[{key!r}] is one of {', '.join(map(repr, accepted))}; got {value!r}.")
    return value
