"""Envs of a team as arrays: what env runners play. Nothing here imports Ray."""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rllib_ddn.team import TeamEnvError, TeamSpec

BROKEN = "episode_broken"  # the key of a final info that says that the env has failed: the episode does not count
LONG_EPISODE = 10_000  # steps after which an episode is reported as one that may never end

_logger = logging.getLogger(__name__)


class VectorTeamEnv(ABC):
    """E envs of one team, stepped together, as arrays.

    Env runners play their sub-environments through one of these. Episodes are not restarted by themselves: an env whose
    episode has ended keeps its last observation until the next :meth:`reset`.

    Attributes:
        spec: the sizes and dtypes.
        episode_limit: most steps that an episode can take, or None when unknown.
        obs: ``[E, N, O]`` of ``spec.obs_dtype``: what the agents observe.
        state: ``[E, S]`` of ``spec.state_dtype``: the global states.
        action_mask: ``[E, N, A]`` bool: the available actions.
        names: the agents' names in the env, where they have any.
        render_modes: what :meth:`render` accepts.

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
        """Starts a new episode in the first ``len(seeds)`` envs.

        A seed and the actions determine an episode, whatever the number of envs and whichever of them it is.
        (SMAC takes no seed after its start.)
        """

    @abstractmethod
    def step(self, actions: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps the given envs. What becomes of the others until they are reset is up to the class.

        Args:
            actions: ``[len(envs), N]`` action indices.
            envs: indices of the envs to step, whose episodes have not ended.

        Returns:
            Team rewards (float32), terminated and truncated (bool), each ``[len(envs)]``.
        """

    @abstractmethod
    def info(self, env: int) -> dict[str, Any]:
        """The info of one env's last step. Of the keys in the info of an episode's last step,
        ``battle_won`` counts as a win or not, and :data:`BROKEN` leaves the episode out."""

    def render(self, mode: str) -> Any:
        """The first env rendered in one of ``render_modes``."""
        raise NotImplementedError(f"{type(self).__name__} cannot be rendered.")

    def close(self) -> None:  # noqa: B027  (most have nothing to end)
        """Ends what the envs have started."""


class SequentialEnvs(VectorTeamEnv):
    """Single envs of a team, stepped one after the other. Whoever made them closes them.

    Args:
        envs: E of :class:`rllib_ddn.envs.single.TeamEnv`.
        replace: returns another env in the place of env e after that has raised: its episode is broken, the others
            continue. None: the exception is raised.
    """

    def __init__(self, envs: list[Any], replace: Callable[[int], Any] | None = None):
        self.envs, self._replace, count = envs, replace, len(envs)
        self.spec = spec = envs[0].team_spec
        self.episode_limit = envs[0].episode_limit
        self.obs = np.zeros((count, spec.num_agents, spec.obs_dim), spec.obs_dtype)
        self.state = np.zeros((count, spec.state_dim), spec.state_dtype)
        self.action_mask = np.ones((count, spec.num_agents, spec.num_actions), bool)
        self._infos: list[dict[str, Any]] = [{} for _ in envs]
        self._steps = np.zeros(count, int)

    def reset(self, seeds: np.ndarray) -> None:
        for e, seed in enumerate(seeds.tolist()):
            self._steps[e] = 0
            try:
                self._infos[e] = self.envs[e].start(seed)
            except Exception as error:
                self._recover(e, error)
                self._infos[e] = self.envs[e].start(seed)
            self._observe(e)

    def step(self, actions: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rewards = np.zeros(len(envs), np.float32)
        terminated, truncated = np.zeros(len(envs), bool), np.zeros(len(envs), bool)
        for row, e in enumerate(envs.tolist()):
            self._steps[e] += 1
            try:
                rewards[row], terminated[row], truncated[row], self._infos[e] = self.envs[e].advance(actions[row])
            except Exception as error:
                self._recover(e, error)
                terminated[row], self._infos[e] = True, {BROKEN: True}
            else:
                self._observe(e)
        return rewards, terminated, truncated

    def info(self, env: int) -> dict[str, Any]:
        return self._infos[env]

    def _observe(self, e: int) -> None:
        self.obs[e], self.state[e], self.action_mask[e] = self.envs[e].seen()

    def _recover(self, e: int, error: Exception) -> None:
        """Replaces env e, which has raised; or raises the exception."""
        if isinstance(error, TeamEnvError):
            raise TeamEnvError(f"step {self._steps[e]}: {error}") from error
        if self._replace is None:
            raise error
        what = " ".join(f"{type(error).__name__}: {error}".split())
        _logger.warning("env %d raised %s at step %d; it is replaced", e, what, self._steps[e])
        self.envs[e] = self._replace(e)


class ConcatenatedStates(VectorTeamEnv):
    """A vector env whose states are the agents' observations, one behind the other."""

    def __init__(self, env: VectorTeamEnv):
        self._env, self.spec = env, env.spec.with_concatenated_state()
        self.episode_limit, self.names, self.render_modes = env.episode_limit, env.names, env.render_modes
        self._observe()

    def reset(self, seeds: np.ndarray) -> None:
        self._env.reset(seeds)
        self._observe()

    def step(self, actions: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        outcome = self._env.step(actions, envs)
        self._observe()
        return outcome

    def info(self, env: int) -> dict[str, Any]:
        return self._env.info(env)

    def render(self, mode: str) -> Any:
        return self._env.render(mode)

    def close(self) -> None:
        self._env.close()

    def _observe(self) -> None:
        self.obs, self.action_mask = self._env.obs, self._env.action_mask
        self.state = self.obs.reshape(len(self.obs), -1)  # [E, N, O] as [E, N * O]


def joined(infos: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The agents' infos as one: each entry of the first agent that has it."""
    return {key: value for info in reversed([*infos]) for key, value in info.items()}


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
            f"an episode of {env} has not ended after {step:,} steps, all of which are kept in memory: give the env "
            "a limit "
            "after which it truncates."
        )
