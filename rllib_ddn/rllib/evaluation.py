"""Evaluation: each network, as leader and follower, plays the same greedy episodes (paper, Table 2)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.evaluation.metrics import RolloutMetrics
from scipy.special import ndtri, stdtrit

from rllib_ddn.learning import FOLLOWER, LEADER
from rllib_ddn.random_streams import episode_stream, seed_sequence
from rllib_ddn.rllib.env_runner import WON
from rllib_ddn.rllib.faults import Runners
from rllib_ddn.rllib.rendering import play_rendered


def evaluate_network(
    runners: Runners, network: str, seeds: list[np.random.SeedSequence], explore: bool = False
) -> list[RolloutMetrics]:
    """Plays an episode per seed, spread over the group's env runners.

    Args:
        runners: env runners; the remote ones play if there are any, else the local one.
        network: one of the config's ``networks``.
        seeds: of the episodes.
        explore: whether to act epsilon-greedily.

    Returns:
        RLlib's metrics of the episodes, without those of an env runner that fails, or that takes longer than
        ``evaluation_sample_timeout_s`` for each of the episodes that it plays one after the other.

    Raises:
        TeamEnvError: an env gave NaN or an empty action mask.
        EnvRunnersError: more env runners failed than is tolerated.
    """
    size, remote = runners.config.num_envs_per_env_runner, runners.healthy()
    shares = np.array_split(np.array(seeds), max(1, len(remote)))

    def play(runner: Any, share: np.ndarray) -> list[RolloutMetrics]:
        metrics = []
        for start in range(0, len(share), size):
            metrics += runner.play(share[start : start + size].tolist(), network, explore)[1]
        return metrics

    if not remote:
        return runners.call_local(partial(play, share=shares[0]))
    runners.submit([partial(play, share=share) for share in shares])
    timeout = runners.config.evaluation_sample_timeout_s
    results, _ = runners.gather(timeout and timeout * math.ceil(len(shares[0]) / size))
    if results:
        runners.failures_in_a_row = 0
    return [metric for result in results for metric in result]


def summarize(episodes: list[RolloutMetrics] | None, wins_reported: bool = False) -> dict[str, float]:
    """``episode_return_mean/min/max``, ``episode_len_mean``, and ``win_rate`` where the env reports it. Without
    episodes all are NaN, which loggers leave out.

    Args:
        episodes: of one network.
        wins_reported: whether another network's episodes have reported wins. Where any has, those that report nothing
            were not won: some envs report ``battle_won`` in won episodes alone.
    """
    if not episodes:
        names = ("episode_return_mean", "episode_return_min", "episode_return_max", "episode_len_mean", "win_rate")
        return dict.fromkeys(names, float("nan"))
    returns = [episode.episode_reward for episode in episodes]
    summary = {
        "episode_return_mean": float(np.mean(returns)),
        "episode_return_min": float(np.min(returns)),
        "episode_return_max": float(np.max(returns)),
        "episode_len_mean": float(np.mean([episode.episode_length for episode in episodes])),
    }
    if wins_reported or _report_wins(episodes):
        summary["win_rate"] = float(np.mean([episode.custom_metrics.get(WON, 0.0) for episode in episodes]))
    return summary


def _report_wins(episodes: Iterable[RolloutMetrics]) -> bool:
    return any(WON in episode.custom_metrics for episode in episodes)


def describe(played: Mapping[str, list[RolloutMetrics]]) -> dict[str, Any]:
    """:func:`compare`, and of each network the number of ``episodes``, the standard deviation ``episode_return_std``,
    and 95% intervals: ``episode_return_ci95`` of the mean return (Student's t), ``win_rate_ci95`` (Wilson 1927).

    Unknown figures, as the deviation of a single episode, are None; ``knowledge_transfer_reason`` is the reason of an
    unknown knowledge transfer.
    """
    results = compare(played)
    for name, episodes in played.items():
        returns = np.array([episode.episode_reward for episode in episodes])
        count, summary = len(returns), results[name]
        deviation = float(np.std(returns, ddof=1)) if count > 1 else math.nan
        half = float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count) if count > 1 else math.nan
        mean = summary["episode_return_mean"]
        interval = [mean - half, mean + half]
        summary |= {"episodes": count, "episode_return_std": deviation, "episode_return_ci95": interval}
        if count and "win_rate" in summary:
            summary["win_rate_ci95"] = list(wilson(summary["win_rate"], count))
    if math.isnan(results.get("knowledge_transfer", 0.0)):
        leader = results[LEADER]
        name, figure = (
            ("win rate", leader["win_rate"]) if "win_rate" in leader else ("mean return", leader["episode_return_mean"])
        )
        reason = f"the leader's {name} is {figure:.4g}: follower / leader is defined above 0 only"
        results["knowledge_transfer_reason"] = reason
    return _without_nan(results)


def wilson(rate: float, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a rate that was observed in ``count`` trials."""
    z = float(ndtri(0.975))
    center = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    return max(0.0, center - half), min(1.0, center + half)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def compare(played: Mapping[str, list[RolloutMetrics] | None]) -> dict[str, Any]:
    """The summaries of all networks, and of leader and follower ``knowledge_transfer``.

    Args:
        played: the episodes of each network; None, for which all figures are NaN, where it was not evaluated.

    Returns:
        ``{"leader": {...}, "follower": {...}, "knowledge_transfer": follower / leader}``, the ratio
        of win rates where the env reports them, else of mean returns (section 5.1). It is NaN unless
        the leader's figure is above 0.
    """
    wins_reported = any(_report_wins(episodes or ()) for episodes in played.values())
    results: dict[str, Any] = {network: summarize(episodes, wins_reported) for network, episodes in played.items()}
    if LEADER in results and FOLLOWER in results:
        figure = "win_rate" if "win_rate" in results[LEADER] else "episode_return_mean"
        leader, follower = results[LEADER][figure], results[FOLLOWER].get(figure, float("nan"))
        results["knowledge_transfer"] = follower / leader if leader > 0 else float("nan")
    return results


def evaluate_checkpoint(
    config: Any,
    checkpoint: Path,
    networks: Sequence[str],
    episodes: int,
    render: bool = False,
    save_gif: Path | None = None,
    save_mp4: Path | None = None,
) -> dict[str, Any]:
    """Plays greedy episodes from a checkpoint, rendered if asked for.

    Args:
        config: the config to build with, which is changed.
        checkpoint: directory of the checkpoint.
        networks: the networks that play, of the config's ``networks``.
        episodes: number of episodes of each network.
        render: show them in a window (the env's render_mode "human").
        save_gif, save_mp4: folders for a GIF or an MP4 video of each episode (render_mode "rgb_array").

    Returns:
        See :func:`describe`; and the ``seeds`` that the env got, the same for each network, of a stream that no
        training uses; and the ``files`` that were written.

    Raises:
        ValueError: the checkpoint does not fit the config, or the env cannot be rendered.
    """
    if render and (save_gif or save_mp4):
        raise ValueError("choose one of --render and --save-gif or --save-mp4.")
    rendered = render or save_gif is not None or save_mp4 is not None
    if rendered:
        config.environment(env_config={**config.env_config, "render_mode": "human" if render else "rgb_array"})
    config.training(store_buffer_in_checkpoints=False)
    envs = (config.evaluation_config or {}).get("num_envs_per_env_runner", config.num_envs_per_env_runner)
    config.evaluation(
        evaluation_config={"explore": False, "num_envs_per_env_runner": 1 if rendered else min(episodes, envs)}
    )
    algo = config.build_algo()
    try:
        algo.restore(str(checkpoint))
        algo.eval_env_runner_group.sync_weights(from_worker_or_learner_group=algo.env_runner)
        seeds = [seed_sequence("checkpoint_evaluation", algo.seed, k) for k in range(episodes)]
        files: list[Path] = []
        played: dict[str, list[RolloutMetrics]] = {}
        for name in networks:
            if rendered:
                played[name], written = play_rendered(algo.eval_env_runner, name, seeds, save_gif, save_mp4)
                files += written
            else:
                played[name] = evaluate_network(algo.eval_runners, name, seeds)
        env_seeds = [episode_stream(seed)[1] for seed in seeds]
        return {**describe(played), "seeds": env_seeds, "files": [str(path) for path in files]}
    finally:
        algo.stop()
        with suppress(OSError):
            os.rmdir(algo.logdir)  # made for results, of which there are none
