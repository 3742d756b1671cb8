"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_ADDRESS"] = "local"  # a cluster of the tests' own, also in the processes that they start
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import pytest
import ray
import torch

from rllib_ddn import DDNConfig

torch.set_num_threads(1)

SMALL_GAME = {"grid_size": 4, "num_predators": 3, "num_prey": 2, "penalty": 0.5, "episode_limit": 12, "sight": 1}


@pytest.fixture(scope="session", autouse=True)
def cluster():
    """One local Ray with more CPUs than the machine may have: the tests' actors are small."""
    importable = {"PYTHONPATH": str(Path(__file__).parent)}  # the tests' own envs, in Ray's workers
    ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": importable})
    yield
    ray.shutdown()


def small_config(config_class=DDNConfig, **training) -> DDNConfig:
    """DDN on a game so small that an iteration takes a fraction of a second."""
    options = {"train_batch_size": 4, "replay_buffer_config": {"capacity": 50}, "agent_hidden_dim": 16, **training}
    config = (
        config_class()
        .environment("predator_prey", env_config=dict(SMALL_GAME))
        .training(**options)
        .env_runners(num_envs_per_env_runner=2)
        .evaluation(evaluation_interval=None)
        .debugging(seed=3, log_level="ERROR")
    )
    config.min_sample_timesteps_per_iteration = 1  # an iteration is a round
    return config


@pytest.fixture
def build():
    """Builds algorithms and stops them when the test ends."""
    built = []

    def make(config: DDNConfig | None = None, **training):
        algo = (config or small_config(**training)).build_algo()
        built.append(algo)
        return algo

    yield make
    for algo in built:
        algo.stop()
