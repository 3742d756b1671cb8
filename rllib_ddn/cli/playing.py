"""What `rllib evaluate` does: greedy episodes from a checkpoint, with the statistics of their returns."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.checkpoints import get_checkpoint_info

from rllib_ddn.cli.checkpoints import find
from rllib_ddn.cli.experiments import check_env_name, is_ours
from rllib_ddn.random_streams import seed_sequence
from rllib_ddn.rllib.evaluation import evaluate_checkpoint
from rllib_ddn.rllib.ray_internals import state_of_checkpoint

SEEDS_SHOWN = 8


def play(
    folder: Path,
    which: str | None,
    algo_name: str | None,
    env: str | None,
    changes: dict[str, Any],
    episodes: int,
    network: str,
    render: bool,
    save_gif: Path | None,
    save_mp4: Path | None,
    save_replay: Path | None,
) -> dict[str, Any]:
    """Plays greedy episodes from a checkpoint; the arguments are the command's options.

    Returns:
        The ``checkpoint``, and see :func:`~rllib_ddn.rllib.evaluation.evaluate_checkpoint`.

    Raises:
        ValueError: the checkpoint or an option is not accepted.
    """
    checkpoint = find(folder, which)
    if save_mp4 and not importlib.util.find_spec("av"):
        raise ValueError("--save-mp4 needs PyAV: pip install 'rllib-ddn[video]'")
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        info = get_checkpoint_info(str(checkpoint))
        if float(str(info["checkpoint_version"])) >= 2.0:  # RLlib's new API stack
            algo = Algorithm.from_checkpoint(str(checkpoint))
            algo_class, config = type(algo), algo.config.copy(copy_frozen=False)
            algo.stop()
        else:
            state = state_of_checkpoint(info)
            algo_class = state["algorithm_class"]
            config = algo_class.get_default_config().update_from_dict(dict(state["config"]))
        if algo_name and algo_name != algo_class.__name__:
            raise ValueError(f"--algo is {algo_name}, but the checkpoint is of {algo_class.__name__}.")
        if env:
            check_env_name(env)
            if env != config.env:
                config.env_config = {}  # the keys of another env; --config '{"env_config": {...}}' gives this one's
            config.environment(env)
        here = {"num_env_runners": 0, "evaluation_num_env_runners": 0, "evaluation_parallel_to_training": False}
        here["num_gpus"] = min(config.num_gpus, torch.cuda.device_count())
        config.update_from_dict({**here, "evaluation_interval": 1, "log_sys_usage": False, **changes})
        if games := changes.get("num_envs_per_env_runner"):
            config.evaluation(evaluation_config={**(config.evaluation_config or {}), "num_envs_per_env_runner": games})
        config.evaluation(evaluation_duration=episodes, evaluation_duration_unit="episodes")
        if config.env == "smac" and (render or save_gif or save_mp4):
            raise ValueError("StarCraft II draws itself: --save-replay writes replays, which the game shows.")
        if save_replay:
            if config.env != "smac":
                raise ValueError(f"--save-replay is for the env smac; this is {config.env}. --save-gif draws others.")
            config.environment(
                env_config={**config.env_config, "save_replay": True, "replay_dir": str(save_replay.absolute())}
            )
        if is_ours(algo_class):
            networks = config.networks if network == "both" else (network,)
            if not set(networks) <= set(config.networks):
                raise ValueError(f"--network {network}: {algo_class.__name__} has {' and '.join(config.networks)}.")
            results = evaluate_checkpoint(config, checkpoint, networks, episodes, render, save_gif, save_mp4)
            if save_replay:
                results["files"] += sorted(str(path) for path in save_replay.rglob("*.SC2Replay"))
            return {"checkpoint": str(checkpoint), **results}
        if render or save_gif or save_mp4:
            raise ValueError(
                f"--render, --save-gif and --save-mp4 draw the algorithms of this package, not {algo_class.__name__}."
            )
        # Of RLlib's own env runners only the first seed can be set.
        config.debugging(seed=int(seed_sequence("checkpoint_evaluation", config.seed or 0).generate_state(1)[0] >> 1))
        algo = config.build_algo()
        algo.restore_from_path(str(checkpoint)) if config.enable_rl_module_and_learner else algo.restore(
            str(checkpoint)
        )
        played = algo.evaluate()["env_runners"]
        algo.stop()
        figures = ("episode_return_mean", "episode_return_min", "episode_return_max", "episode_len_mean")
        return {
            "checkpoint": str(checkpoint),
            "policy": {"episodes": episodes, **{key: played[key] for key in figures if key in played}},
            "seeds": [config.seed],
            "files": [],
        }
    finally:
        ray.shutdown()


def report(results: dict[str, Any]) -> str:
    """The results in lines for the user."""
    lines = [f"checkpoint {results['checkpoint']}; in brackets 95% intervals"]
    for name, about in results.items():
        if not isinstance(about, dict):
            continue
        parts = [f"{about['episodes']} greedy episodes"]
        if about.get("win_rate") is not None:
            parts.append(f"win rate {_with_interval(about['win_rate'], about['win_rate_ci95'])}")
        if about.get("episode_return_mean") is not None:
            parts.append(f"return {_with_interval(about['episode_return_mean'], about.get('episode_return_ci95'))}")
        if about.get("episode_return_std") is not None:
            parts.append(f"standard deviation {about['episode_return_std']:.4g}")
        if "episode_return_min" in about:
            parts.append(f"from {about['episode_return_min']:.4g} to {about['episode_return_max']:.4g}")
        if about.get("episode_len_mean") is not None:
            parts.append(f"length {about['episode_len_mean']:.4g}")
        lines.append(f"{name}: {', '.join(parts)}")
    if "knowledge_transfer" in results:
        transfer, reason = results["knowledge_transfer"], results.get("knowledge_transfer_reason")
        lines.append(
            f"knowledge transfer: {'not given, for ' + str(reason) if transfer is None else f'{transfer:.4g}'}"
        )
    seeds = [str(seed) for seed in results["seeds"]]
    rest = f", ... ({len(seeds)}; --json has all)" if len(seeds) > SEEDS_SHOWN else ""
    lines.append(f"seeds, which no training uses: {', '.join(seeds[:SEEDS_SHOWN])}{rest}")
    lines += [f"wrote {file}" for file in results["files"]]
    return "\n".join(lines)


def _with_interval(mean: float, interval: list[float | None] | None) -> str:
    if interval is None or interval[0] is None:
        return f"{mean:.4g}"
    return f"{mean:.4g} [{interval[0]:.4g}, {interval[1]:.4g}]"
