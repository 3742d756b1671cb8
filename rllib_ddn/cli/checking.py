"""What `rllib check-env` does: it plays an episode with random actions, and says what the algorithms will see."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from typing import Any

import numpy as np
import typer
from ray.rllib.env.env_context import EnvContext

from rllib_ddn.cli.experiments import check_env_name
from rllib_ddn.envs.grouping import TeamGames, as_team_env
from rllib_ddn.envs.smac import PAPER_MAPS
from rllib_ddn.envs.vector import SingleTeamEnv, VectorTeamEnv
from rllib_ddn.rllib.config import ValueDecompositionConfig
from rllib_ddn.rllib.env_creator import creator_of
from rllib_ddn.team import TeamEnvError, check_values

MOST_STEPS, MOST_SECONDS = 10_000, 120.0  # of an episode, unless the env itself has a higher limit


def check_env(env: str, env_config: dict[str, Any]) -> bool:
    """Plays one episode; of the env smac without a map, one on each of the paper's maps.

    Returns:
        Whether the sizes of SMAC's maps are those of ``PAPER_MAPS``.

    Raises:
        ValueError: the env is unknown, or breaks a team's convention, or its episode does not end.
    """
    check_env_name(env)
    if env != "smac":
        _play(env, env_config)
        return True
    for package in ("smac", "pysc2", "pys2clientprotocol", "protobuf", "ray", "torch"):
        typer.echo(f"{package:20s} {_version(package)}")
    typer.echo(f"{'python':20s} {platform.python_version()}\n{'SC2PATH':20s} {os.environ.get('SC2PATH', 'not set')}")
    maps = [env_config["map_name"]] if "map_name" in env_config else list(PAPER_MAPS)
    good = [_check_map({**env_config, "map_name": name}) for name in maps]  # every map is played
    return all(good)


def _check_map(env_config: dict[str, Any]) -> bool:
    sizes, expected = _play("smac", env_config), PAPER_MAPS.get(env_config["map_name"])
    if expected is None or sizes == expected:
        return True
    typer.echo(f"  DIFFERENT from the paper's sizes of this map: {tuple(expected)}")
    return False


def _play(env: str, env_config: dict[str, Any]) -> tuple[int | None, ...]:
    """One episode with random actions; prints what the team is and how it went.

    Returns:
        Agents, actions, observation, state, and the most steps of an episode (None where the env does not say).
    """
    context = EnvContext(env_config, worker_index=0)
    team = as_team_env(creator_of(env, ValueDecompositionConfig())(context), context)
    games: VectorTeamEnv = team.games if isinstance(team, SingleTeamEnv) else TeamGames([team])
    spec = games.spec
    rng, only, total, steps, ended = np.random.default_rng(0), np.arange(1), 0.0, 0, False
    try:
        games.reset(only)
        start = time.perf_counter()
        while not ended:
            seconds = time.perf_counter() - start
            if steps >= max(MOST_STEPS, games.episode_limit or 0) or seconds > MOST_SECONDS:
                raise TeamEnvError(
                    f"the env's episode has not ended after {steps:,} steps with random actions, which took {seconds:.0f} s: "
                    "training plays whole episodes, so truncate them, as by PettingZoo's max_cycles or Gymnasium's TimeLimit."
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
        f"{env_config.get('map_name', env)}: {sizes[0]} agents, {sizes[1]} actions, observations of {sizes[2]} and a state of "
        f"{sizes[3]} numbers{f', at most {sizes[4]} steps' if sizes[4] else ''}; a random episode took {steps} steps "
        f"({rate:,.0f} a second) and returned {total:.2f}" + (f"; its last info: {info}" if info else "")
    )
    return sizes


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
