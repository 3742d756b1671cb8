"""Registered environments: ``ENVS`` has their names in RLlib and their classes.

It is made when it is asked for: :mod:`rllib_ddn.envs.predator_prey` alone needs PettingZoo, but not Ray.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "ENVS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rllib_ddn.envs.pettingzoo_env import PettingZooTeam
    from rllib_ddn.envs.predator_prey_team import PredatorPreyTeam
    from rllib_ddn.envs.smac import SMACTeam
    from rllib_ddn.envs.smax import SMAXTeam

    globals()["ENVS"] = {
        "predator_prey": PredatorPreyTeam,
        "pettingzoo": PettingZooTeam,
        "smac": SMACTeam,
        "smax": SMAXTeam,
    }
    return globals()["ENVS"]
