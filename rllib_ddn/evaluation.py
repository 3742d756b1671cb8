"""Evaluation: leader and follower play the same greedy episodes (paper, Table 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.evaluation.metrics import RolloutMetrics

from rllib_ddn.ddn_env_runner import WON
from rllib_ddn.ddn_torch_model import FOLLOWER, LEADER, NETWORKS


def evaluate_network(runners: Any, network: str, seeds: list[list[int]], explore: bool = False) -> list[RolloutMetrics]:
    """Plays an episode per seed, spread over the group's env runners.

    Args:
        runners: an ``EnvRunnerGroup``; its remote runners play if it has any, else its local one.
        network: "leader" or "follower".
        seeds: E seeds.
        explore: whether to act epsilon-greedily.

    Returns:
        RLlib's metrics of the episodes. Episodes of a runner that fails are missing.
    """
    remote = runners.healthy_worker_ids()
    shares = np.array_split(np.array(seeds), max(1, len(remote)))

    def play(runner: Any, share: np.ndarray) -> list[RolloutMetrics]:
        size, metrics = runner.config.num_envs_per_env_runner, []
        for start in range(0, len(share), size):
            metrics += runner.play(share[start : start + size].tolist(), network, explore)[1]
        return metrics

    if not remote:
        return play(runners.local_env_runner, shares[0])
    calls = [lambda runner, share=share: play(runner, share) for share in shares]
    results = runners.foreach_env_runner(calls, local_env_runner=False, remote_worker_ids=remote)
    return [metric for result in results for metric in result]


def summarize(episodes: list[RolloutMetrics] | None) -> dict[str, float]:
    """``episode_return_mean/min/max``, ``episode_len_mean``, and ``win_rate`` where the env knows it.

    Without episodes all are NaN, which loggers leave out.
    """
    if not episodes:
        names = ("episode_return_mean", "episode_return_min", "episode_return_max", "episode_len_mean")
        return dict.fromkeys(names, float("nan"))
    returns = [episode.episode_reward for episode in episodes]
    summary = {
        "episode_return_mean": float(np.mean(returns)),
        "episode_return_min": float(np.min(returns)),
        "episode_return_max": float(np.max(returns)),
        "episode_len_mean": float(np.mean([episode.episode_length for episode in episodes])),
    }
    wins = [episode.custom_metrics[WON] for episode in episodes if WON in episode.custom_metrics]
    if wins:
        summary["win_rate"] = float(np.mean(wins))
    return summary


def compare(played: dict[str, list[RolloutMetrics] | None]) -> dict[str, Any]:
    """Both networks' summaries, and ``knowledge_transfer``.

    Args:
        played: the episodes of each network; a network that did not play is left out.

    Returns:
        ``{"leader": {...}, "follower": {...}, "knowledge_transfer": follower / leader}``, the ratio
        of win rates where the env knows them, else of mean returns (section 5.1). It is NaN unless
        the leader's figure is above 0.
    """
    results: dict[str, Any] = {network: summarize(played[network]) for network in NETWORKS if network in played}
    if len(results) == len(NETWORKS):
        figure = "win_rate" if "win_rate" in results[LEADER] else "episode_return_mean"
        leader, follower = results[LEADER][figure], results[FOLLOWER].get(figure, float("nan"))
        results["knowledge_transfer"] = follower / leader if leader > 0 else float("nan")
    return results
