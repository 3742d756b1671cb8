"""Random episodes, as the replay gives them."""

import numpy as np
import torch

LENGTHS = (6, 3, 1, 6)


def random_episodes(spec, seed=0, lengths=LENGTHS):
    """Episodes with random contents and masks, every other one terminated.

    The last action but one is always available; behind an episode's end are zeros.
    """
    rng, length = np.random.default_rng(seed), np.array(lengths, np.int32)
    rows, steps = len(length), max(lengths)
    mask = rng.random((rows, steps + 1, spec.num_agents, spec.num_actions)) < 0.6
    mask[..., spec.num_actions - 2] = True
    episodes = {
        "obs": rng.integers(0, 2, (rows, steps + 1, spec.num_agents, spec.obs_dim)).astype(np.int8),
        "state": rng.integers(0, 2, (rows, steps + 1, spec.state_dim)).astype(np.int8),
        "action_mask": mask,
        "actions": rng.integers(0, spec.num_actions, (rows, steps, spec.num_agents)).astype(np.uint8),
        "rewards": rng.normal(size=(rows, steps)).astype(np.float32),
        "terminated": np.arange(rows) % 2 == 0,
        "length": length,
        "uniform": rng.random((rows, steps)),
    }
    for row, n in enumerate(length):
        for name in ("obs", "state", "action_mask"):
            episodes[name][row, n + 1 :] = 0
        for name in ("actions", "rewards"):
            episodes[name][row, n:] = 0
    return episodes


def as_tensors(episodes):
    return {name: torch.from_numpy(np.asarray(array)) for name, array in episodes.items()}
