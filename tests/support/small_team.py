"""A team in numbers, for tests without an env."""

import numpy as np

from rllib_ddn.networks import LocalInput, TeamSizes
from rllib_ddn.team import TeamSpec

SPEC = TeamSpec(3, 4, 5, 6, np.dtype(np.int8), np.dtype(np.int8))


def local_input():
    """Makes ``z`` of the team's observations and actions."""
    return LocalInput(SPEC.num_agents, SPEC.num_actions)


SIZES = TeamSizes.of(SPEC, hidden_dim=8)
