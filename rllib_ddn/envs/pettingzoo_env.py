"""Any cooperative PettingZoo ``ParallelEnv`` as a team env."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_ddn.envs.vector import TEAM, TEAM_KEYS, joined, warn_once
from rllib_ddn.names import imported, is_custom, nearest
from rllib_ddn.team import (
    ACTION_MASK,
    OBS,
    STATE,
    Member,
    TeamEnvError,
    flat_dtype,
    flatten,
    refuse_unknown_keys,
    unbounded_box,
)


class PettingZooTeam(MultiAgentEnv):
    """Any PettingZoo ParallelEnv, its agents grouped into one team.

    Registered as ``"pettingzoo"``.
    Agents with smaller observation or action spaces are padded with zeros and masked. An agent
    that leaves before the episode is over stays in the team with an observation of zeros and
    action 0 as its only one.

    Args:
        config: the ``env_config``:

            - ``env``: the factory, ``"package.module:parallel_env"`` or a callable;
            - ``team_reward``: ``"sum"`` (default) or ``"mean"`` of the agents' rewards;
            - ``state``: ``"env"`` (default: the env's own ``state()``) or ``"concat"``, with which this
              class adds no state and :func:`rllib_ddn.envs.grouping.as_team_env` joins the
              observations;
            - ``max_input_size``, ``timeouts``: see :func:`rllib_ddn.envs.grouping.as_team_env`;
            - every other key is an argument of the factory.

    Raises:
        TeamEnvError: a key is unknown or has no accepted value, the factory cannot be imported or makes no ParallelEnv,
            an action space is not discrete, or there is no state.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        arguments = {key: value for key, value in config.items() if key == "state" or key not in TEAM_KEYS}
        name = arguments.pop("env", None)
        factory = _load(name)
        self._mean = _choice(arguments, "team_reward", ("sum", "mean")) == "mean"
        self._has_state = _choice(arguments, "state", ("env", "concat")) == "env"
        self.env = _parallel(_made(factory, name, arguments), name)
        self._members = list(self.env.possible_agents)
        self.render_mode = getattr(self.env, "render_mode", None)

        _, infos = self.env.reset(seed=0)
        self.members = [_member(self.env, agent, infos.get(agent, {})) for agent in self._members]
        self._obs_spaces = [member.observation_space for member in self.members]
        self._counts = [member.num_actions for member in self.members]
        self._masked = {member.id for member in self.members if member.has_action_mask}
        self._mask_spaces = [spaces.Box(0, 1, (count,), np.int8) for count in self._counts]
        self._dims = [spaces.flatdim(space) for space in self._obs_spaces]
        self._obs_dtype = np.dtype(np.result_type(*(flat_dtype(space) for space in self._obs_spaces)))
        self.num_actions, self.obs_dim = max(self._counts), max(self._dims)

        parts: dict[str, spaces.Space] = {
            OBS: unbounded_box((self.obs_dim,), self._obs_dtype),
            ACTION_MASK: spaces.Box(0, 1, (self.num_actions,), np.int8),
        }
        if self._has_state:
            self._state_space = parts[STATE] = self._space_of_state()
        self.observation_space = spaces.Tuple(spaces.Dict(parts) for _ in self._members)
        self.action_space = spaces.Tuple(spaces.Discrete(self.num_actions) for _ in self._members)
        self.possible_agents = self.agents = [TEAM]
        self.observation_spaces, self.action_spaces = {TEAM: self.observation_space}, {TEAM: self.action_space}
        self._ended: set[Any] = set()  # agents that have terminated or were truncated in this episode

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        observations, infos = self.env.reset(seed=seed, options=options)
        self._ended = set()
        return self._observation(observations, infos, absent=set()), {TEAM: self._info(infos)}

    def step(self, action_dict: dict):
        """One step; the rewards of the agents still there are added up or averaged over the team."""
        present = set(self.env.agents)
        actions = {
            agent: int(action)
            for agent, action in zip(self._members, action_dict[TEAM], strict=True)
            if agent in present
        }
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        # Who has terminated has nothing more to see; who is truncated now has a last observation to bootstrap from.
        absent = self._ended | {agent for agent, ended in terminations.items() if ended}
        self._ended = absent | {agent for agent, ended in truncations.items() if ended}
        finished = self._ended.issuperset(self.env.agents)
        if finished and self.env.agents:
            warn_once(
                f"{self.env} has terminated or truncated all agents, but leaves {len(self.env.agents)} of them in its `agents`, "
                "which PettingZoo wants empty then. The episode is taken as ended."
            )
        # Truncated by a limit: at least one agent was still playing when the time ran out.
        truncated = finished and any(late and not terminations.get(agent) for agent, late in truncations.items())
        terminated = finished and not truncated
        return (
            self._observation(observations, infos, absent),
            {TEAM: self._reward(rewards)},
            {TEAM: terminated, "__all__": terminated},
            {TEAM: truncated, "__all__": truncated},
            {TEAM: self._info(infos)},
        )

    def render(self):
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _observation(self, observations: dict, infos: dict, absent: set) -> dict:
        obs = np.zeros((len(self._members), self.obs_dim), self._obs_dtype)
        mask = np.zeros((len(self._members), self.num_actions), np.int8)
        for i, agent in enumerate(self._members):
            if agent not in observations or agent in absent:
                mask[i, 0] = 1  # has left: a row of zeros, and nothing to choose
                continue
            value = observations[agent]
            available = infos.get(agent, {}).get(ACTION_MASK)
            if isinstance(value, dict) and "observation" in value:
                available = value.get(ACTION_MASK, available)
                value = value["observation"]
            obs[i, : self._dims[i]] = flatten(self._obs_spaces[i], value, f"the observation of agent {agent!r}")
            if available is not None:
                available = flatten(self._mask_spaces[i], available, f'"{ACTION_MASK}" of agent {agent!r}')
            elif agent in self._masked:
                raise TeamEnvError(f'the observation of agent {agent!r} has no "{ACTION_MASK}", which its space has.')
            mask[i, : self._counts[i]] = 1 if available is None else available
        team = [{OBS: obs[i], ACTION_MASK: mask[i]} for i in range(len(self._members))]
        if self._has_state:
            state = flatten(self._state_space, self.env.state(), f"the state of {self.env}")
            team = [{**agent, STATE: state} for agent in team]
        return {TEAM: tuple(team)}

    def _reward(self, rewards: dict) -> float:
        for agent, reward in rewards.items():
            array = np.asarray(reward)
            if array.dtype.kind not in "biuf" or array.size != 1:
                raise TeamEnvError(f"the reward of agent {agent!r} is {reward!r}; a reward is a finite number.")
        return float(sum(rewards.values())) / (len(self._members) if self._mean else 1)

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

    def _info(self, infos: dict) -> dict[str, Any]:
        """The members' infos, and on top of them each entry as the first member that has it tells it: some have left."""
        return {**joined(infos.get(member, {}) for member in self._members), "agents": infos}


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
            raise TeamEnvError(f"{env} cannot be drawn: it takes no render_mode.")
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


def _member(env: Any, agent: Any, info: dict[str, Any]) -> Member:
    """An agent, by PettingZoo's convention: a Dict with an action mask has the observation under that name.

    Args:
        info: of a first reset, where the mask may be instead.
    """
    action_space = env.action_space(agent)
    if not isinstance(action_space, spaces.Discrete) or action_space.start != 0:
        raise TeamEnvError(
            f"the action space of agent {agent!r} is {action_space}; actions must be Discrete(n) starting at 0."
        )
    space = env.observation_space(agent)
    if isinstance(space, spaces.Dict) and "observation" in space.spaces:
        return Member(
            agent, space["observation"], int(action_space.n), ACTION_MASK in space.spaces, ACTION_MASK in info
        )
    return Member(agent, space, int(action_space.n), False, ACTION_MASK in info)
