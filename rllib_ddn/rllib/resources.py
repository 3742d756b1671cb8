"""The cluster's CPUs and GPUs: whether there are as many as a trial or env runners would otherwise wait for."""

from __future__ import annotations

from collections.abc import Mapping

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_ddn.envs.vector import warn_once
from rllib_ddn.rllib.ray_internals import started_this_cluster

ADVICE = {
    "CPU": "lower num_env_runners (or evaluation_num_env_runners), set num_cpus_per_env_runner to a fraction such as "
    "0.5, or start Ray with more CPUs than there are: ray.init(num_cpus=...), rllib train --ray-num-cpus",
    "GPU": "leave num_gpus and num_gpus_per_env_runner 0 to learn and play on CPU cores",
}


def check_trial(required: Mapping[str, float]) -> None:
    """Checks a trial's resources, where Ray is running.

    Raises:
        ValueError: the cluster, which this process started, has less.
    """
    if ray.is_initialized():
        _check("a trial needs", required)


def check_env_runners(config: AlgorithmConfig, evaluation_config: AlgorithmConfig) -> None:
    """Checks the resources of remote env runners outside of Tune, where nothing reserves them and Ray lets them wait
    without a message. Starts Ray if it is not running.

    Raises:
        ValueError: the cluster, which this process started, has less.
    """
    groups = [group for group in (config, evaluation_config) if group.num_env_runners]
    if groups and ray.util.get_current_placement_group() is None:
        cpus = sum(group.num_env_runners * group.num_cpus_per_env_runner for group in groups)
        gpus = sum(group.num_env_runners * group.num_gpus_per_env_runner for group in groups)
        _check("the env runners need", {"CPU": cpus, "GPU": gpus}, ray.available_resources())


def _check(need: str, required: Mapping[str, float], unused: Mapping[str, float] | None = None) -> None:
    """A warning is enough for a cluster that others started, which may grow, and for resources that are in use.

    Args:
        need: the start of the message.
        required: the resources needed.
        unused: those that are not in use now; None where that does not matter.
    """
    total = ray.cluster_resources()
    for kind, advice in ADVICE.items():
        amount, available = required.get(kind, 0), total.get(kind, 0)
        line = f"{need} {amount:g} {kind}s, and the cluster has {available:g}"
        if amount > available and started_this_cluster():
            raise ValueError(f"{line}: {advice}.")
        if amount > available:
            warn_once(f"{line}: waiting until nodes with more of them join. Otherwise {advice}.")
        elif unused is not None and amount > unused.get(kind, 0):
            warn_once(
                f"{line}, of which only {unused.get(kind, 0):g} are not in use: waiting until they are released, "
                f"as by stop() of another algorithm. Otherwise {advice}."
            )
