"""What `rllib export` does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ray.rllib.policy import Policy
from ray.rllib.policy.sample_batch import DEFAULT_POLICY_ID
from ray.rllib.utils.checkpoints import get_checkpoint_info

from rllib_ddn.cli.checkpoints import find
from rllib_ddn.cli.experiments import is_ours
from rllib_ddn.rllib.policy import ValueDecompositionPolicy
from rllib_ddn.rllib.ray_internals import state_of_checkpoint
from rllib_ddn.rllib.score import BEST


def export(folder: Path, which: str | None, out: Path, network: str | None, file_format: str) -> dict[str, Any]:
    """Exports a network of a checkpoint; the arguments are the command's.

    Returns:
        What was written, and what it scored.

    Raises:
        ValueError: the checkpoint or an option is not accepted.
    """
    checkpoint = find(folder, which)
    info = get_checkpoint_info(str(checkpoint))
    if float(str(info["checkpoint_version"])) >= 2.0:  # RLlib's new API stack
        raise ValueError(f"{checkpoint} is not of an algorithm of this package, which are what `rllib export` exports.")
    state = state_of_checkpoint(info)
    algo_class = state["algorithm_class"]
    if not is_ours(algo_class):
        raise ValueError(
            f"{checkpoint} is of {algo_class.__name__}; `rllib export` exports the algorithms of this package."
        )
    # All that is needed, without env runners and Ray; older checkpoints have it in policies/ alone.
    saved = state.get("policies", state["worker"]["policy_states"])[DEFAULT_POLICY_ID]
    policy: ValueDecompositionPolicy = Policy.from_state(saved)
    if network and network not in policy.model.networks:
        raise ValueError(f"--network {network}: {algo_class.__name__} has {' and '.join(policy.model.networks)}.")
    scored = scores(checkpoint, state["training_iteration"])
    notes = {"algorithm": algo_class.__name__, "checkpoint": str(checkpoint), "scored": scored}
    file = policy.export(out.expanduser(), network, file_format, **notes)
    return {"file": str(file), "bytes": file.stat().st_size, "network": file.stem, "scored": scored.get(file.stem)}


def scores(checkpoint: Path, iteration: int) -> dict[str, Any]:
    """The newest evaluation of each network at a checkpoint, from the results of its trial; {} where there are none."""
    results = (checkpoint.parent if checkpoint.name == BEST else checkpoint).with_name("result.json")
    found: dict[str, Any] = {}
    for line in results.read_text().splitlines() if results.is_file() else ():
        try:
            result = json.loads(line)
        except json.JSONDecodeError:  # a line that is being written, or that a kill has cut off
            break
        if result["training_iteration"] > iteration:
            break
        for network, score in result.get("evaluation", {}).items():
            if (
                isinstance(score, dict)
                and math.isfinite(score.get("episode_return_mean", math.nan))
                and network != "env_runners"
            ):
                found[network] = {**score, "env_steps": result["timesteps_total"]}
    return found
