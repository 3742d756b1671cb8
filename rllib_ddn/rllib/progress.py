"""What a trial is doing before its first result, told through Ray's key-value store, which all of a cluster's processes share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.experimental import internal_kv
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED

NAMESPACE = "rllib_ddn"


def tell_progress(algorithm: Algorithm) -> None:
    """Writes down what an algorithm has played of its first iteration, under its folder's name; later it does nothing."""
    if algorithm.iteration or not internal_kv._internal_kv_initialized():
        return
    counters, config = algorithm._counters, algorithm.config
    figures = {
        "episodes": counters["num_episodes_sampled"],
        "needed": config.train_batch_size,
        "steps": counters[NUM_ENV_STEPS_SAMPLED],
        "iteration": config.min_sample_timesteps_per_iteration or 0,
    }
    internal_kv._internal_kv_put(Path(algorithm.logdir).name, json.dumps(figures, default=int), namespace=NAMESPACE)


def forget_progress(algorithm: Algorithm) -> None:
    """Takes it away again, when the first iteration is over."""
    if not algorithm.iteration and internal_kv._internal_kv_initialized():
        internal_kv._internal_kv_del(Path(algorithm.logdir).name, namespace=NAMESPACE)


def first_iteration(folder: str) -> str:
    """A line for the user: what a trial has played of its first iteration.

    Args:
        folder: the name of the trial's folder.
    """
    told = internal_kv._internal_kv_get(folder, namespace=NAMESPACE) if internal_kv._internal_kv_initialized() else None
    if not told:
        return "in its first iteration"
    figures: dict[str, Any] = json.loads(told)
    if figures["episodes"] < figures["needed"]:
        return (
            f"{figures['episodes']:,} episodes played of the {figures['needed']:,} that a batch needs; then it learns"
        )
    of = f" of {figures['iteration']:,}" if figures["iteration"] else ""
    return f"learning in its first iteration: {figures['steps']:,}{of} env steps played"
