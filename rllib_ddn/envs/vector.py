"""Envs that step many games at once, and the single env derived from them."""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_ddn.team import ACTION_MASK, OBS, STATE, Member, TeamEnvError, TeamSpec, part_of, team_spaces

TEAM = "team"  # the agent id of a team
BROKEN = "episode_broken"  # the key of a final info that says that the game failed: the episode does not count
TEAM_KEYS = ("state", "max_input_size", "timeouts")  # keys of an env_config that are for all envs, see as_team_env()
TIMEOUTS = ("truncate", "terminate")
LONG_EPISODE = 10_000  # steps after which an episode is reported as one that may never end

_logger = logging.getLogger(__name__)


def joined(infos: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One info of the members', each entry as the first member that has it tells it."""
    return {key: value for info in reversed([*infos]) for key, value in info.items()}


class VectorTeamEnv(ABC):
    """E games of one team, stepped together, as arrays.

    An env runner plays all its games through one of these. Episodes are not restarted by themselves: a game
    that has ended keeps its last observation until the next :meth:`reset`.

    Attributes:
        spec: the sizes and dtypes.
        episode_limit: most steps that an episode can take, or None when unknown.
        obs: ``[E, N, O]`` of ``spec.obs_dtype``: what the agents observe.
        state: ``[E, S]`` of ``spec.state_dtype``: the global states.
        action_mask: ``[E, N, A]`` bool: the available actions.
        names: the agents' names in the game, where they have any.
        render_modes: what :meth:`render` can draw.

    ``obs``, ``state`` and ``action_mask`` are valid until the next :meth:`reset` or :meth:`step`.
    """

    spec: TeamSpec
    episode_limit: int | None
    obs: np.ndarray
    state: np.ndarray
    action_mask: np.ndarray
    names: Sequence[str] | None = None
    render_modes: tuple[str, ...] = ()

    @abstractmethod
    def reset(self, seeds: np.ndarray) -> None:
        """Starts a new episode in the first ``len(seeds)`` games.

        A seed and the actions make an episode, whatever the number of games and whichever of them it is.
        (SMAC's games take no seed after their start.)
        """

    @abstractmethod
    def step(self, actions: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps the given games. What becomes of the others until they are reset is up to the env.

        Args:
            actions: ``[len(envs), N]`` action indices.
            envs: indices of the games to step, none of which has ended.

        Returns:
            Team rewards (float32), terminated and truncated (bool), each ``[len(envs)]``.
        """

    @abstractmethod
    def info(self, env: int) -> dict[str, Any]:
        """The info of one game's last step. Of the keys in the info of an episode's last step,
        ``battle_won`` counts as a win or not, and :data:`BROKEN` leaves the episode out."""

    def render(self, mode: str) -> Any:
        """The first game drawn in one of ``render_modes``."""
        raise NotImplementedError(f"{type(self).__name__} cannot be drawn.")

    def close(self) -> None:  # noqa: B027  (most have nothing to end)
        """Ends what the games have started."""


class SingleTeamEnv(MultiAgentEnv):
    """A vector env of one game as RLlib's ``MultiAgentEnv`` with one agent, the team.

    ``reset()`` without a seed goes on with seeds that follow from the last one given.

    Args:
        make: makes a vector env of so many games.
        name: the registered env's, for errors.
        render_mode: None, or one of the vector env's ``render_modes``.

    Raises:
        TeamEnvError: the vector env cannot be drawn in this mode.
    """

    def __init__(self, make: Callable[[int], VectorTeamEnv], name: str, render_mode: str | None = None):
        super().__init__()
        self._make, self.games, self.render_mode = make, make(1), render_mode
        if render_mode not in (None, *self.games.render_modes):
            modes = " or ".join(["None", *(f'"{mode}"' for mode in self.games.render_modes)])
            raise TeamEnvError(f'env_config["render_mode"] of {name} is {modes}; got {render_mode!r}.')
        self._seeds = np.random.default_rng()
        spec, names = self.games.spec, self.games.names
        self.observation_space, self.action_space = team_spaces(spec)
        obs = part_of(self.observation_space[0], OBS)
        self.members = [Member(name, obs, spec.num_actions, True) for name in names or range(spec.num_agents)]
        self.possible_agents = self.agents = [TEAM]
        self.observation_spaces, self.action_spaces = {TEAM: self.observation_space}, {TEAM: self.action_space}

    def vectorize(self, num_envs: int) -> VectorTeamEnv:
        """``num_envs`` games of this kind, stepped together."""
        return self._make(num_envs)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
        self.games.reset(np.array([self._seeds.integers(2**31) if seed is None else seed]))
        return self._observation(), {TEAM: self.games.info(0)}

    def step(self, action_dict: dict):
        rewards, terminateds, truncateds = self.games.step(np.array([action_dict[TEAM]]), np.array([0]))
        terminated, truncated = bool(terminateds[0]), bool(truncateds[0])
        return (
            self._observation(),
            {TEAM: float(rewards[0])},
            {TEAM: terminated, "__all__": terminated},
            {TEAM: truncated, "__all__": truncated},
            {TEAM: self.games.info(0)},
        )

    def render(self) -> Any:
        return None if self.render_mode is None else self.games.render(self.render_mode)

    def close(self) -> None:
        self.games.close()

    def _observation(self) -> dict[str, tuple[dict[str, np.ndarray], ...]]:
        games = self.games
        obs, mask, state = games.obs[0].copy(), games.action_mask[0].astype(np.int8), games.state[0].copy()
        return {TEAM: tuple({OBS: obs[i], ACTION_MASK: mask[i], STATE: state} for i in range(len(obs)))}


@functools.cache
def warn_once(message: str) -> None:
    """Logs a warning the first time that it is given in this process."""
    _logger.warning(message)


def warn_of_long_episode(env: str, step: int) -> None:
    """Warns, once in a process for each env, of an episode that may never end.

    Args:
        env: the env's name.
        step: steps that the episode has taken.
    """
    if step == LONG_EPISODE:
        warn_once(
            f"an episode of {env} has not ended after {step:,} steps, all of which are kept in memory: give the env a limit "
            "after which it truncates."
        )
