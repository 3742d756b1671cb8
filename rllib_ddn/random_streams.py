"""The seeds of all random streams: one stream for each purpose, none of which meets another."""

from __future__ import annotations

import secrets

import numpy as np

# New purposes go to the end: a purpose's place is part of its seeds.
PURPOSES = (
    "learner",  # samples the replay, then gives the update its uniform numbers
    "compute_actions",  # explores for callers of compute_actions(); worker
    "training_episode",  # worker, round, env
    "behaviour_network",  # which network acts in a round of a mixture; worker, round
    "intrinsic_reward_mask",  # on the env runner; its seed is the episode's id
    "evaluation",  # during training; iteration, episode
    "checkpoint_evaluation",  # of rllib evaluate; episode
    "video",  # iteration
)


def seed_of_run(seed: int | None) -> int:
    """The config's seed; where that is None, a random one that a config may have."""
    return secrets.randbits(31) if seed is None else seed


def seed_sequence(purpose: str, seed: int | None, *indices: int) -> np.random.SeedSequence:
    """The seed of a stream, for ``np.random.default_rng()``.

    NumPy pads a plain list of numbers with zeros, so that ``[3]`` and ``[3, 0]`` seed the same stream. A ``spawn_key``
    is not padded, and here it begins with the purpose.

    Args:
        purpose: one of ``PURPOSES``.
        seed: of the run; None takes fresh entropy from the operating system.
        indices: which stream of this purpose, each from 0 to 2**32 - 1.
    """
    return np.random.SeedSequence(seed, spawn_key=(PURPOSES.index(purpose), *indices))


def episode_stream(seed: np.random.SeedSequence) -> tuple[np.random.Generator, int]:
    """An episode's generator, and the seed of its env, which is the generator's first number."""
    generator = np.random.default_rng(seed)
    return generator, int(generator.integers(2**31))
