"""`rllib check-env`: plays episodes with random actions, and shows what the algorithms will see."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from rllib_ddn.checks import line
from rllib_ddn.cli.common import Debug, Info, parse_object, set_up

MOST_STEPS, MOST_SECONDS = 10_000, 120.0  # of an episode, unless the env itself has a higher limit
EPISODES, ENOUGH_SECONDS = 5, 10.0  # how many are played, and when no further one begins
PER_AGENT = ("agents", "_group_info")  # entries of a team's info with one of each agent


def check_env(
    env: Annotated[str, typer.Argument(help="Registered env, such as pettingzoo, or module:name of a custom one.")],
    env_config: Annotated[str, typer.Option(help="The env's config, as JSON.")] = "{}",
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Checks whether an env can be trained on.

    It plays five episodes with random actions and shows the team's sizes, who masks actions, how the episodes ended and
    who got rewards. An episode that does not end within 10,000 steps, or 2 minutes, is an error: training plays whole
    episodes.
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
    """A few episodes with random actions; prints the team's sizes and how the episodes went.

    Returns:
        Agents, actions, observation, state, and the most steps of an episode (None where the env does not say).

    Raises:
        ValueError: the env breaks a team's convention, it raises, or its episode does not end.
    """
    import numpy as np

    from rllib_ddn.envs.conventions import described
    from rllib_ddn.envs.vector import SequentialEnvs
    from rllib_ddn.rllib.config import ValueDecompositionConfig
    from rllib_ddn.team import TeamEnvError

    rng = np.random.default_rng(0)
    with closing(ValueDecompositionConfig().environment(env, env_config=env_config).make_env()) as team:
        spec, start = team.team_spec, time.perf_counter()
        sizes = (spec.num_agents, spec.num_actions, spec.obs_dim, spec.state_dim, team.episode_limit)
        played: list[_Episode] = []
        try:
            while len(played) < EPISODES and (not played or time.perf_counter() - start < ENOUGH_SECONDS):
                played.append(_episode(SequentialEnvs([team]), len(played), rng))
        except TeamEnvError:
            raise
        except Exception as error:
            raise TeamEnvError(f"the env raised {described(error)}.") from error
        rate = sum(episode.steps for episode in played) / (time.perf_counter() - start)
    limit = f", at most {team.episode_limit} steps" if team.episode_limit else ""
    masking = sum(member.has_action_mask or member.mask_in_info for member in team.members)
    info = line(repr({key: value for key, value in played[-1].info.items() if key not in PER_AGENT}), 300)
    typer.echo(
        f"{env_config.get('map_name', env)}: {sizes[0]} agents, {sizes[1]} actions, observations of {sizes[2]} and a "
        f"state of {sizes[3]} numbers{limit}\n"
        f"  action masks: {f'of {masking} of {sizes[0]} agents' if masking else 'none'}\n"
        f"  {_ends(played)}, {rate:,.0f} steps a second\n"
        f"  returns from {min(e.total for e in played):.2f} to {max(e.total for e in played):.2f}{_rewards(played)}\n"
        f"  last info: {info}"
    )
    return sizes


@dataclass
class _Episode:
    """An episode: how it ended, its last info, and each step's rewards of the agents, where they are known."""

    steps: int = 0
    total: float = 0.0
    end: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    rewards: list[Any] = field(default_factory=list)


def _episode(envs: Any, seed: int, rng: Any) -> _Episode:
    import numpy as np

    from rllib_ddn.checks import check_values
    from rllib_ddn.envs.vector import BROKEN
    from rllib_ddn.team import TeamEnvError

    episode, only, start = _Episode(), np.arange(1), time.perf_counter()
    envs.reset(np.array([seed]))
    while not episode.end:
        seconds = time.perf_counter() - start
        if episode.steps >= max(MOST_STEPS, envs.episode_limit or 0) or seconds > MOST_SECONDS:
            raise TeamEnvError(
                f"the env's episode has not ended after {episode.steps:,} steps with random actions, which took "
                f"{seconds:.0f} s: training plays whole episodes, so truncate them, as by PettingZoo's max_cycles "
                "or Gymnasium's TimeLimit."
            )
        check_values(envs.obs, envs.state, envs.action_mask, f" at step {episode.steps}")
        actions = np.where(envs.action_mask, rng.random(envs.action_mask.shape), -1).argmax(-1)
        rewards, terminated, truncated = envs.step(actions, only)
        episode.steps += 1
        if not np.isfinite(rewards[0]):
            raise TeamEnvError(f"step {episode.steps}: the reward is {rewards[0]}; rewards must be finite numbers.")
        episode.total += float(rewards[0])
        if envs.envs[0].member_rewards is not None:
            episode.rewards.append(envs.envs[0].member_rewards)
        episode.end = "terminated" if terminated[0] else "truncated" if truncated[0] else ""
    episode.info = envs.info(0)
    if episode.info.get(BROKEN):
        episode.end = "failed"
    return episode


def _ends(played: list[_Episode]) -> str:
    """How many episodes ended in which way, and after how many steps."""
    parts = []
    for end in ("terminated", "truncated", "failed"):
        if steps := sorted({episode.steps for episode in played if episode.end == end}):
            count = sum(episode.end == end for episode in played)
            parts.append(f"{count} {end} after {' to '.join(map(str, dict.fromkeys((steps[0], steps[-1]))))} steps")
    text = f"of {len(played)} random episodes {' and '.join(parts)}"
    if len({episode.steps for episode in played}) == 1 < len(played) and played[0].end == "terminated":
        return f"{text} (where that is a time limit, it counts as an end for good)"
    return text


def _rewards(played: list[_Episode]) -> str:
    """What the agents' own rewards have in common."""
    rewarded = [step for episode in played for step in episode.rewards if any(step)]
    if not rewarded or len(rewarded[0]) < 2:
        return ""
    count, ever = len(rewarded[0]), sum(any(of_agent) for of_agent in zip(*rewarded, strict=True))
    if all(min(step) == max(step) for step in rewarded):
        return f"; all {count} agents get the same reward"
    opposed = sum(min(step) < 0 < max(step) for step in rewarded)
    text = f"; {ever} of {count} agents get rewards"
    if all(abs(sum(step)) <= 1e-6 * max(map(abs, step)) for step in rewarded):
        return f"{text}, which sum to zero at every step: do two sides play against each other?"
    return f"{text}, of opposite signs in {opposed} of {len(rewarded)} rewarded steps" if opposed else text


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
