"""What `rllib list` shows: algorithms, envs and config keys, a line each, from where they are declared."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from ray.rllib.algorithms.registry import ALGORITHMS

import rllib_ddn
from rllib_ddn.cli.experiments import OURS
from rllib_ddn.names import did_you_mean
from rllib_ddn.rllib.accepts import shown
from rllib_ddn.rllib.ranges import RANGES


def algos() -> list[str]:
    """The algorithms of this package, then the names of RLlib's own."""
    return [
        *_aligned((name, _summary(algo)) for name, algo in OURS.items()),
        f"RLlib's own: {', '.join(sorted(ALGORITHMS))}",
    ]


def envs() -> list[str]:
    """The registered envs of this package, and how others are named."""
    custom = ("module:name", "A custom class or function that makes a grouped RLlib env")
    return _aligned([*((name, _summary(env)) for name, env in rllib_ddn.ENVS.items()), custom])


def keys(algo: str) -> list[str]:
    """The config keys that an algorithm declares, with defaults and accepted values.

    Raises:
        ValueError: there is no such algorithm in this package.
    """
    if algo not in OURS:
        raise ValueError(f"{algo!r} is no algorithm of this package, whose keys are listed; {did_you_mean(algo, OURS)}")
    config = OURS[algo].get_default_config()
    return _aligned((key, shown(getattr(config, key), 40), RANGES[key].words) for key in config.keys_with_defaults())


def _summary(described: Any) -> str:
    return (inspect.getdoc(described) or "").splitlines()[0].replace("`", "").rstrip(".")


def _aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows as lines, with two spaces between columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
