"""Videos of greedy episodes while an algorithm trains, which leave what it learns as it is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rllib_ddn.envs.grouping import TeamGames

MOST_FRAMES = 2_000
RENDERED = {"render_mode": "rgb_array"}  # what a rendered env has in its env_config


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leaves the global random states of Python, NumPy and torch as they were: custom components may draw from them."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def check_rendering(env: Any) -> None:
    """
    Raises:
        ValueError: the env, made with :data:`RENDERED`, gives no image.
    """
    TeamGames([env]).reset(np.zeros(1, int))
    if not isinstance(image := env.render(), np.ndarray):
        raise ValueError(f'render() gives {type(image).__name__}, and no image for render_mode "rgb_array"')


def frames_of(policy: Any, env: Any, seed: int) -> list[np.ndarray]:
    """The images of one greedy episode of the deployed network, at most :data:`MOST_FRAMES`."""
    games = TeamGames([env])
    games.reset(np.array([seed]))
    recurrent_state, frames, ended = policy.initial_recurrent_state(1), [env.render()], False
    while not ended and len(frames) < MOST_FRAMES:
        seen = games.obs, games.state, games.action_mask
        actions, recurrent_state, _ = policy.act(policy.model.acting_network, *seen, recurrent_state)
        _, terminated, truncated = games.step(actions, np.arange(1))
        ended = bool((terminated | truncated)[0])
        frames.append(env.render())
    return frames


def write_gif(path: Path, frames: list[np.ndarray], frames_per_second: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = [Image.fromarray(frame) for frame in frames]
    durations = [1000 // frames_per_second] * len(rest) + [1500]  # time to see how it ended, before it begins again
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)
