"""`rllib export`: writes a trained network for use without Ray."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from rllib_ddn.cli.common import Best, Debug, Info, Latest, best_or_latest, set_up


class Network(StrEnum):
    leader = "leader"
    follower = "follower"
    agent = "agent"


class Format(StrEnum):
    onnx = "onnx"
    torch = "torch"


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint, a trial or an experiment.")],
    out: Annotated[Path, typer.Option(help="Folder for the network's file and policy.json.")],
    network: Annotated[
        Network | None, typer.Option(help="Which network; by default the follower, of a host its one network.")
    ] = None,
    file_format: Annotated[Format, typer.Option("--format", help="ONNX, or a program of torch.export.")] = Format.onnx,
    best: Best = False,
    latest: Latest = False,
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Writes a trained network for use without Ray.

    rllib_ddn.deploy.ExportedPolicy loads it.
    """
    set_up(v, vv)
    from ray.rllib.policy import Policy
    from ray.rllib.policy.sample_batch import DEFAULT_POLICY_ID

    from rllib_ddn.cli.checkpoints import find, state_of
    from rllib_ddn.cli.experiments import is_ours

    checkpoint = find(checkpoint, best_or_latest(best, latest))
    state = state_of(checkpoint)
    if state is None or not is_ours(state["algorithm_class"]):
        raise ValueError(f"{checkpoint} is not of an algorithm of this package, which are what `rllib export` exports.")
    # The policy's state is all that is needed, without env runners and Ray.
    policy: Any = Policy.from_state(state["policies"][DEFAULT_POLICY_ID])
    name = state["algorithm_class"].__name__
    if network and network not in policy.model.networks:
        raise ValueError(f"--network {network}: {name} has {' and '.join(policy.model.networks)}.")
    scored = scores(checkpoint, state["training_iteration"])
    notes = {"algorithm": name, "checkpoint": str(checkpoint), "scored": scored}
    file = policy.export(out.expanduser(), network and network.value, file_format.value, **notes)
    written = {"file": str(file), "bytes": file.stat().st_size, "network": file.stem, "scored": scored.get(file.stem)}
    typer.echo(json.dumps(written, indent=2))


def scores(checkpoint: Path, iteration: int) -> dict[str, Any]:
    """The newest evaluation of each network at a checkpoint, from the results of its trial; {} where there are none."""
    from rllib_ddn.cli.checkpoints import results_of
    from rllib_ddn.rllib.score import BEST

    found: dict[str, Any] = {}
    for result in results_of((checkpoint.parent if checkpoint.name == BEST else checkpoint).parent):
        if result["training_iteration"] > iteration:
            break
        for network, score in result.get("evaluation", {}).items():
            if network in list(Network) and math.isfinite(score.get("episode_return_mean", math.nan)):
                found[network] = {**score, "env_steps": result["timesteps_total"]}
    return found
