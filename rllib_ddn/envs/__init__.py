"""Registered environments: ``ENVS`` has their names in RLlib and their classes.

Where Ray cannot be imported there is :mod:`rllib_ddn.envs.predator_prey` alone, which needs PettingZoo.
"""

from __future__ import annotations

from typing import Any

try:
    import ray  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "ray":
        raise
else:
    from rllib_ddn.envs.pettingzoo_env import PettingZooTeam
    from rllib_ddn.envs.predator_prey_team import PredatorPreyTeam
    from rllib_ddn.envs.smac import SMACTeam
    from rllib_ddn.envs.smax import SMAXTeam

    ENVS: dict[str, Any] = {
        "predator_prey": PredatorPreyTeam,
        "pettingzoo": PettingZooTeam,
        "smac": SMACTeam,
        "smax": SMAXTeam,
    }
