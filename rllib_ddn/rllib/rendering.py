"""Rendered episodes: videos during a training, and those of ``rllib evaluate``."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from ray.rllib.evaluation.metrics import RolloutMetrics

from rllib_ddn.envs.vector import SequentialEnvs

FRAMES_PER_SECOND = 8
MAX_FRAMES = 2_000  # of a video during a training
RENDERED = {"render_mode": "rgb_array"}  # env_config of an env whose render() returns images


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restores the global random states of Python, NumPy and torch at the end: custom components may draw from them."""
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
        ValueError: the env, made with :data:`RENDERED`, renders no image.
    """
    SequentialEnvs([env]).reset(np.zeros(1, int))
    if not isinstance(image := env.render(), np.ndarray):
        raise ValueError(f'render() gives {type(image).__name__}, and no image for render_mode "rgb_array"')


def frames_of(policy: Any, env: Any, seed: int) -> list[np.ndarray]:
    """The images of one greedy episode of the deployed network, at most :data:`MAX_FRAMES`, without an env runner."""
    envs = SequentialEnvs([env])
    envs.reset(np.array([seed]))
    recurrent_state, frames, ended = policy.initial_recurrent_state(1), [env.render()], False
    while not ended and len(frames) < MAX_FRAMES:
        seen = envs.obs, envs.state, envs.action_mask
        actions, recurrent_state, _ = policy.act(policy.model.acting_network, *seen, recurrent_state)
        _, terminated, truncated = envs.step(actions, np.arange(1))
        ended = bool((terminated | truncated)[0])
        frames.append(env.render())
    return frames


def play_rendered(
    runner: Any,
    network: str,
    seeds: Sequence[np.random.SeedSequence],
    gif_folder: Path | None = None,
    mp4_folder: Path | None = None,
) -> tuple[list[RolloutMetrics], list[Path]]:
    """Plays greedy episodes on an env runner, and calls the env's ``render()`` after each step.

    Args:
        runner: an env runner whose env was made with a ``render_mode``.
        network: the network that acts.
        seeds: of the episodes.
        gif_folder: gets ``<network>_<episode>.gif`` of each episode.
        mp4_folder: gets ``<network>_<episode>.mp4`` of each episode.

    Returns:
        RLlib's metrics of the episodes, and the files that were written.

    Raises:
        ValueError: there are files to write, and ``render()`` returned no image.
    """
    metrics: list[RolloutMetrics] = []
    files: list[Path] = []
    for k, seed in enumerate(seeds):
        frames: list[np.ndarray] = []

        def render(frames: list[np.ndarray] = frames) -> None:
            frame = runner.env.render()
            if frame is not None:
                frames.append(np.asarray(frame))

        metrics += runner.play([seed], network, explore=False, on_step=render)[1]
        for folder, suffix, write in ((gif_folder, "gif", write_gif), (mp4_folder, "mp4", write_mp4)):
            if folder is None:
                continue
            if not frames:
                raise ValueError(
                    "the env's render() gave no images: --save-gif and --save-mp4 need render_mode 'rgb_array'."
                )
            files.append(folder / f"{network}_{k:02d}.{suffix}")
            write(files[-1], frames)
    return metrics, files


def write_gif(path: Path, frames: Sequence[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = [Image.fromarray(frame) for frame in frames]
    durations = [1000 // FRAMES_PER_SECOND] * len(rest) + [1500]  # time to see the end before it starts again
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0)


def write_mp4(path: Path, frames: Sequence[np.ndarray]) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (size - size % 2 for size in frames[0].shape[:2])  # the codec takes even sizes only
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), "rgb24")))
        file.mux(stream.encode())
