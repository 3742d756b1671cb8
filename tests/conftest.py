"""Fixtures, and the surroundings of all tests and of the processes that they start."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["RAY_ADDRESS"] = "local"  # a cluster of the tests' own
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # processes that no test may need
os.environ.setdefault("RAY_worker_niceness", "0")  # with Ray's 15, its workers wait for everybody else
os.environ.setdefault("RLLIB_TEST_NO_JAX_IMPORT", "1")  # RLlib's own, in every process
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
# Ray's workers and the programs import ``support``, and this very checkout's package.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*map(str, Path(__file__).parents[:2]), *filter(None, [os.environ.get("PYTHONPATH")])]
)

import pytest
import torch

pytest_plugins = ["support.starcraft"]
torch.set_num_threads(1)


# Of two processes, none should begin a long module when the other has nothing left.
LONG = (
    "test_cli",
    "test_docs",
    "test_games",
    "test_learning",
    "test_chaos",
    "test_cluster",
    "test_reproduce",
    "test_checkpoints",
    "test_tune",
    "test_export",
    "test_wheel",
)


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the tests marked slow, too")


@pytest.hookimpl(tryfirst=True)  # before ``-m`` selects by the marker
def pytest_collection_modifyitems(config, items):
    """Marks what uses a Ray cluster, drops slow tests that were not asked for, and orders modules: without Ray, long,
    other.
    """
    if not config.option.all and "slow" not in config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    with_ray = set()
    for item in items:
        if "cluster" in item.fixturenames:
            item.add_marker("ray")
            with_ray.add(item.path)
    items.sort(key=lambda item: (item.path in with_ray, item.path.stem not in LONG))


@pytest.fixture(scope="session")
def cluster():
    """One local Ray, in each of pytest-xdist's processes, with more CPUs than there may be: actors are small.

    ``build`` uses it; other tests that need Ray say ``pytestmark = pytest.mark.usefixtures("cluster")``.
    """
    import ray

    ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def build(cluster):
    """Builds algorithms, of a config or of a small config with options, and stops them when the test ends."""
    from support.configs import small_config

    built = []

    def make(config=None, **training):
        algo = (config or small_config(**training)).build_algo()
        built.append(algo)
        return algo

    yield make
    for algo in built:
        algo.stop()
