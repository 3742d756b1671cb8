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

from rllib_ddn.envs.single import TEAM_KEYS, TeamEnv
from rllib_ddn.envs.vector import joined, warn_once
from rllib_ddn.names import imported, is_custom, nearest
from rllib_ddn.team import (
    ACTION_MASK,
    Member,
    TeamEnvError,
    TeamSpec,
    flat_dtype,
    flatten,
    number,
    refuse_unknown_keys,
    unbounded_box,
)


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
            - ``state``: ``"env"`` (default: the env's own ``state()``) or ``"concat"``, with which no ``state()``
              is needed, and :func:`rllib_ddn.envs.grouping.as_team_env` concatenates the observations;
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

        _, infos = env.reset(seed=0)
        members = [
            Member.of(agent, env.observation_space(agent), env.action_space(agent), ACTION_MASK in infos.get(agent, {}))
            for agent in env.possible_agents
        ]
        self._state_space = self._space_of_state() if has_state else None
        state = self._state_space or spaces.Box(0, 1, (0,), np.float32)
        super().__init__(TeamSpec.of(members, spaces.flatdim(state), flat_dtype(state)), members)
        self.render_mode = getattr(env, "render_mode", None)

    def start(self, seed: int | None, options: dict[str, Any] | None = None) -> dict[str, Any]:
        observations, infos = self.env.reset(seed=seed, options=options)
        self._ended = set()
        self._observe(observations, infos, absent=set())
        return self._info(infos)

    def advance(self, actions: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """One step; the rewards of the agents still there are added up or averaged over the team."""
        present = set(self.env.agents)
        observations, rewards, terminations, truncations, infos = self.env.step(
            {
                member.id: member.first_action + int(action)
                for member, action in zip(self.members, actions, strict=True)
                if member.id in present
            }
        )
        # Who has terminated has nothing more to see; who is truncated now has a last observation to bootstrap from.
        absent = self._ended | {agent for agent, ended in terminations.items() if ended}
        self._ended = absent | {agent for agent, ended in truncations.items() if ended}
        finished = self._ended.issuperset(self.env.agents)
        if finished and self.env.agents:
            warn_once(
                f"{self.env} has terminated or truncated all agents, but leaves {len(self.env.agents)} of them in its "
                "`agents`, which PettingZoo wants empty then. The episode is taken as ended."
            )
        # Truncated by a limit: at least one agent was still acting when the time ran out.
        truncated = finished and any(late and not terminations.get(agent) for agent, late in truncations.items())
        self._observe(observations, infos, absent)
        reward = sum(number(reward, f"agent {agent!r}") for agent, reward in rewards.items())
        return (
            reward / (len(self.members) if self._mean else 1),
            finished and not truncated,
            truncated,
            self._info(infos),
        )

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _observe(self, observations: Mapping[Any, Any], infos: Mapping[Any, Any], absent: Collection[Any]) -> None:
        self.obs[:], self.action_mask[:] = 0, False
        for i, member in enumerate(self.members):
            if member.id not in observations or member.id in absent:
                self.action_mask[i, 0] = True  # has left: a row of zeros, and nothing to choose
                continue
            obs, available = member.read(observations[member.id], infos.get(member.id, {}).get(ACTION_MASK))
            self.obs[i, : len(obs)] = obs
            self.action_mask[i, : member.num_actions] = True if available is None else available
        if self._state_space is not None:
            self.state = flatten(self._state_space, self.env.state(), f"the state of {self.env}")

    def _space_of_state(self) -> spaces.Box:
        """As large as a state is; its dtype is that of the env's ``state_space``, or else of the array that it gives."""
        try:
            state = self.env.state()
        except (NotImplementedError, AttributeError):
            raise TeamEnvError(
                f'{self.env} has no state(): choose env_config={{"state": "concat"}} to use the concatenated observations.'
            ) from None
        declared = getattr(self.env, "state_space", None)
        given = state.dtype if isinstance(state, np.ndarray) else np.dtype(np.float32)  # a list does not tell
        dtype = flat_dtype(declared) if isinstance(declared, spaces.Space) else given
        return unbounded_box((np.size(state),), np.dtype(np.float32) if dtype == np.float64 else dtype)

    def _info(self, infos: Mapping[Any, Any]) -> dict[str, Any]:
        """The members' infos, and beside them each entry of the first member that has it: some have left."""
        return {**joined(infos.get(member.id, {}) for member in self.members), "agents": infos}


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
