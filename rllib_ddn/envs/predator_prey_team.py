"""Predator-Prey as a team env, with all of an env runner's games stepped at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from rllib_ddn.envs import predator_prey
from rllib_ddn.envs.pettingzoo_env import PettingZooTeam
from rllib_ddn.team import TeamSpec


class PredatorPreyTeam(PettingZooTeam):
    """The registered env ``"predator_prey"``; ``env_config`` holds the arguments of ``parallel_env``."""

    def __init__(self, config: dict[str, Any]):
        # Every predator is paid the team's reward, so that the mean is the team's reward.
        super().__init__({"team_reward": "mean", **config, "env": predator_prey.parallel_env})
        self._rules = {k: v for k, v in config.items() if k not in ("team_reward", "state", "render_mode")}

    def vectorize(self, num_envs: int) -> VectorPredatorPrey | None:
        """``num_envs`` games as arrays; None where the team's reward is a sum that they do not know."""
        if not self._mean:
            return None
        spec = TeamSpec.from_spaces(self.observation_space, self.action_space)
        return VectorPredatorPrey(num_envs, spec, self._rules)


class VectorPredatorPrey:
    """The interface of :class:`rllib_ddn.envs.grouping.TeamGames` on ``PredatorPreyGames``."""

    def __init__(self, num_envs: int, spec: TeamSpec, rules: dict[str, Any]):
        self._games = predator_prey.PredatorPreyGames(num_envs, **rules)
        self.spec = spec
        self.episode_limit: int | None = self._games.episode_limit

    @property
    def obs(self) -> np.ndarray:
        return self._games.obs

    @property
    def state(self) -> np.ndarray:
        return self._games.state

    @property
    def action_mask(self) -> np.ndarray:
        return self._games.action_mask

    def reset(self, seeds: np.ndarray) -> None:
        self._games.reset(seeds, np.arange(len(seeds)))

    def step(self, actions: np.ndarray, envs: np.ndarray):
        games = self._games
        everyone = np.zeros((games.num_games, games.num_predators), actions.dtype)
        everyone[envs] = actions
        rewards = games.step(everyone)[envs]
        return rewards, games.terminated[envs], games.truncated[envs]

    def info(self, env: int) -> dict[str, Any]:
        return {"num_captured": int(self._games.num_captured[env])}
