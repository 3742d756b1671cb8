"""Says whether SMAC works here: versions, and a random episode on each of the paper's six maps.

python scripts/check_smac.py [MAP ...]

Needs StarCraft II with SMAC's maps, and the packages smac and pysc2 (see the README).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time

import numpy as np

from rllib_ddn.envs.smac import PAPER_MAPS, SMACGames
from rllib_ddn.team import TeamEnvError


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def check(name: str) -> bool:
    """Plays one episode; prints a line; says whether the sizes are those of ``PAPER_MAPS``."""
    games = SMACGames(1, {"map_name": name})
    spec = games.spec
    sizes = (spec.num_agents, spec.num_actions, spec.obs_dim, spec.state_dim, games.episode_limit)
    rng, everyone = np.random.default_rng(0), np.arange(1)
    total, steps, ended = 0.0, 0, False
    try:
        games.reset(everyone)
        start = time.perf_counter()
        while not ended:
            mask = games.action_mask[0]
            actions = np.where(mask, rng.random(mask.shape), -1).argmax(-1)
            rewards, terminated, truncated = games.step(actions[None], everyone)
            total, steps, ended = total + float(rewards[0]), steps + 1, bool(terminated[0] or truncated[0])
        rate = steps / (time.perf_counter() - start)
    finally:
        games.close()
    good = sizes == PAPER_MAPS[name]
    verdict = "as in the table" if good else f"DIFFERENT from the table's {tuple(PAPER_MAPS[name])}"
    print(f"{name:14s} {steps:4d} steps, {rate:4.0f} a second, return {total:5.2f}, {games.info(0)}; sizes {sizes}: {verdict}")
    return good


def main() -> None:
    for package in ("smac", "pysc2", "pys2clientprotocol", "protobuf", "ray", "torch"):
        print(f"{package:20s} {version(package)}")
    print(f"{'python':20s} {platform.python_version()}\n{'SC2PATH':20s} {os.environ.get('SC2PATH', 'not set')}")
    names = sys.argv[1:] or list(PAPER_MAPS)
    unknown = set(names) - set(PAPER_MAPS)
    if unknown:
        sys.exit(f"check_smac: {min(unknown)} is not one of {', '.join(PAPER_MAPS)}.")
    try:
        good = [check(name) for name in names]
    except TeamEnvError as error:
        sys.exit(f"check_smac: {error}")
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
