"""Predator-Prey as a team env."""

from __future__ import annotations

import inspect
from typing import Any

from rllib_ddn.envs.predator_prey import STATES, VectorPredatorPrey
from rllib_ddn.envs.single import TEAM_KEYS, SingleTeamEnv
from rllib_ddn.team import refuse_unknown_keys


class PredatorPreyTeam(SingleTeamEnv):
    """Predators that catch prey on a grid together.

    Registered as ``"predator_prey"``.
    ``env_config`` holds the arguments of :class:`rllib_ddn.envs.predator_prey.VectorPredatorPrey`,
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
        known = [*inspect.signature(VectorPredatorPrey).parameters][1:]  # all but num_envs
        refuse_unknown_keys("predator_prey", rules, {*known, "render_mode", *TEAM_KEYS})
        if config.get("state") in STATES:
            rules["state"] = config["state"]
        super().__init__(
            lambda num_envs: VectorPredatorPrey(num_envs, **rules), "predator_prey", config.get("render_mode")
        )
