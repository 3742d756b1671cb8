"""The progress of a trial's first iteration, before it has a result: the trial writes it, ``rllib train`` shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED

from rllib_ddn.rllib.ray_internals import AlgorithmInternals, delete_note, get_note, put_note


def report_progress(algorithm: AlgorithmInternals) -> None:
    """Notes the episodes and env steps of an algorithm's first iteration under the name of its folder; later it does
    nothing."""
    if algorithm.iteration:
        return
    config = algorithm.config
    figures = {
        "episodes": algorithm.counters["num_episodes_sampled"],
        "batch": config.train_batch_size,
        "steps": algorithm.counters[NUM_ENV_STEPS_SAMPLED],
        "steps_per_iteration": config.min_sample_timesteps_per_iteration or 0,
    }
    put_note(Path(algorithm.logdir).name, json.dumps(figures, default=int))


def clear_progress(algorithm: AlgorithmInternals) -> None:
    """Removes the note when the first iteration is over."""
    if not algorithm.iteration:
        delete_note(Path(algorithm.logdir).name)


def first_iteration(folder: str) -> str:
    """The progress of a trial's first iteration, in a line.

    Args:
        folder: the name of the trial's folder.
    """
    note = get_note(folder)
    if note is None:
        return "in its first iteration"
    figures: dict[str, Any] = json.loads(note)
    if figures["episodes"] < figures["batch"]:
        return f"{figures['episodes']:,} episodes sampled of the {figures['batch']:,} of a batch; then it learns"
    of = f" of {figures['steps_per_iteration']:,}" if figures["steps_per_iteration"] else ""
    return f"learning in its first iteration: {figures['steps']:,}{of} env steps sampled"
