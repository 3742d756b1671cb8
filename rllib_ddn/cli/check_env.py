"""`rllib check-env`: plays an episode with random actions, and shows what the algorithms will see."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from typing import Annotated, Any

import typer

from rllib_ddn.cli.common import Debug, Info, parse_object, set_up

MOST_STEPS, MOST_SECONDS = 10_000, 120.0  # of an episode, unless the env itself has a higher limit


def check_env(
    env: Annotated[str, typer.Argument(help="Registered env, such as pettingzoo, or module:name of a custom one.")],
    env_config: Annotated[str, typer.Option(help="The env's config, as JSON.")] = "{}",
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Checks whether an env can be trained on.

    It shows the team's sizes and plays an episode with random actions. An episode that does not end within 10,000
    steps, or 2 minutes, is an error: training plays whole episodes.
    `rllib check-env smac` also shows the versions of what SMAC needs, and plays on each of the paper's maps.
    """
    set_up(v, vv)
    arguments = parse_object("--env-config", env_config, '{"env": "my_env:make"}')
    from rllib_ddn.cli.experiments import check_env_name
    from rllib_ddn.envs.smac import PAPER_MAPS

    check_env_name(env)
    if env != "smac":
        _play(env, arguments)
        return
    for package in ("smac", "pysc2", "pys2clientprotocol", "protobuf", "ray", "torch"):
        typer.echo(f"{package:20s} {_version(package)}")
    typer.echo(f"{'python':20s} {platform.python_version()}\n{'SC2PATH':20s} {os.environ.get('SC2PATH', 'not set')}")
    different = False
    for name in [arguments["map_name"]] if "map_name" in arguments else PAPER_MAPS:
        sizes = _play("smac", {**arguments, "map_name": name})
        if sizes != PAPER_MAPS.get(name, sizes):
            different = True
            typer.echo(f"  DIFFERENT from the paper's sizes of this map: {tuple(PAPER_MAPS[name])}")
    raise typer.Exit(int(different))


def _play(env: str, env_config: dict[str, Any]) -> tuple[int | None, ...]:
    """One episode with random actions; prints the team's sizes and how the episode went.

    Returns:
        Agents, actions, observation, state, and the most steps of an episode (None where the env does not say).

    Raises:
        ValueError: the env breaks a team's convention, or its episode does not end.
    """
    import numpy as np
    from ray.rllib.env.env_context import EnvContext

    from rllib_ddn.checks import check_values
    from rllib_ddn.envs.grouping import as_team_env
    from rllib_ddn.envs.vector import SequentialEnvs
    from rllib_ddn.rllib.config import ValueDecompositionConfig
    from rllib_ddn.rllib.env_creator import creator_of
    from rllib_ddn.team import TeamEnvError

    context = EnvContext(env_config, worker_index=0)
    team = as_team_env(creator_of(env, ValueDecompositionConfig())(context), context)
    games = SequentialEnvs([team])
    spec = games.spec
    rng, only, total, steps, ended = np.random.default_rng(0), np.arange(1), 0.0, 0, False
    try:
        games.reset(only)
        start = time.perf_counter()
        while not ended:
            seconds = time.perf_counter() - start
            if steps >= max(MOST_STEPS, games.episode_limit or 0) or seconds > MOST_SECONDS:
                raise TeamEnvError(
                    f"the env's episode has not ended after {steps:,} steps with random actions, which took "
                    f"{seconds:.0f} s: training plays whole episodes, so truncate them, as by PettingZoo's max_cycles "
                    "or Gymnasium's TimeLimit."
                )
            check_values(games.obs, games.state, games.action_mask, f" at step {steps}")
            actions = np.where(games.action_mask[0], rng.random(games.action_mask[0].shape), -1).argmax(-1)
            rewards, terminated, truncated = games.step(actions[None], only)
            if not np.isfinite(rewards[0]):
                raise TeamEnvError(f"there is a reward that is {rewards[0]} at step {steps}; rewards must be finite.")
            total, steps, ended = total + float(rewards[0]), steps + 1, bool(terminated[0] or truncated[0])
        rate, info = steps / (time.perf_counter() - start), games.info(0)
    finally:
        team.close()
    sizes = (spec.num_agents, spec.num_actions, spec.obs_dim, spec.state_dim, games.episode_limit)
    typer.echo(
        f"{env_config.get('map_name', env)}: {sizes[0]} agents, {sizes[1]} actions, observations of {sizes[2]} and a "
        f"state of {sizes[3]} numbers{f', at most {sizes[4]} steps' if sizes[4] else ''}; a random episode took "
        f"{steps} steps ({rate:,.0f} a second) and returned {total:.2f}" + (f"; its last info: {info}" if info else "")
    )
    return sizes


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
