"""Predator-Prey as a team env, with all of an env runner's games stepped together."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from rllib_ddn.envs.predator_prey import ACTIONS, STATES, PredatorPreyGames
from rllib_ddn.envs.predator_prey_picture import RENDER_MODES, Picture
from rllib_ddn.envs.vector import TEAM_KEYS, SingleTeamEnv, VectorTeamEnv
from rllib_ddn.team import TeamSpec, refuse_unknown_keys


class PredatorPreyTeam(SingleTeamEnv):
    """Predators that catch prey on a grid together.

    Registered as ``"predator_prey"``.
    ``env_config`` holds the arguments of :class:`rllib_ddn.envs.predator_prey.PredatorPreyGames`,
    ``render_mode`` (None, "ansi", "rgb_array" or "human"), and the keys of
    :func:`rllib_ddn.envs.grouping.as_team_env`. Both know ``state``; it is one of

    - ``"planes"`` (default; ``"env"`` is the same): the whole grid, in which all predators look alike;
    - ``"units"``: that, and each predator's and prey's row and column in the order of the agents;
    - ``"concat"``: the concatenated observations.

    Raises:
        TeamEnvError: a key is unknown, or there is no such ``render_mode``.
        ValueError: an argument is out of range.
    """

    state_choices = STATES

    def __init__(self, config: dict[str, Any]):
        rules = {key: value for key, value in config.items() if key not in ("render_mode", *TEAM_KEYS)}
        known = [*inspect.signature(PredatorPreyGames).parameters][1:]  # all but num_games
        refuse_unknown_keys("predator_prey", rules, {*known, "render_mode", *TEAM_KEYS})
        if config.get("state") in STATES:
            rules["state"] = config["state"]
        super().__init__(
            lambda num_games: VectorPredatorPrey(num_games, **rules), "predator_prey", config.get("render_mode")
        )


class VectorPredatorPrey(VectorTeamEnv):
    """:class:`PredatorPreyGames` as a vector env.

    Args:
        num_games: E.
        rules: the other arguments of :class:`PredatorPreyGames`.
    """

    render_modes = RENDER_MODES

    def __init__(self, num_games: int, **rules: Any):
        self._games = games = PredatorPreyGames(num_games, **rules)
        self._picture = Picture()
        self.episode_limit = games.episode_limit
        self.names = [f"predator_{i}" for i in range(games.num_predators)]
        self.spec = TeamSpec(
            num_agents=games.num_predators,
            num_actions=len(ACTIONS),
            obs_dim=games.obs.shape[-1],
            state_dim=games.state.shape[-1],
            obs_dtype=games.obs.dtype,
            state_dtype=games.state.dtype,
            has_action_mask=True,
        )
        self._observe()

    def reset(self, seeds: np.ndarray) -> None:
        self._games.reset(seeds, np.arange(len(seeds)))
        self._observe()

    def step(self, actions: np.ndarray, envs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        games = self._games
        everyone = np.zeros((games.num_games, games.num_predators), actions.dtype)
        everyone[envs] = actions
        rewards = games.step(everyone, envs)[envs]
        self._observe()
        return rewards, games.terminated[envs], games.truncated[envs]

    def info(self, env: int) -> dict[str, Any]:
        """``num_captured``: prey captured so far."""
        return {"num_captured": int(self._games.num_captured[env])}

    def render(self, mode: str) -> str | np.ndarray | None:
        return self._picture.draw(self._games.picture(), mode)

    def close(self) -> None:
        """Closes the window, if there is one."""
        self._picture.close()

    def _observe(self) -> None:
        self.obs, self.state, self.action_mask = self._games.obs, self._games.state, self._games.action_mask
