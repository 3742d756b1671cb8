"""`rllib evaluate`: greedy episodes from a checkpoint, with the statistics of their returns."""

from __future__ import annotations

import importlib.util
import json
import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from rllib_ddn.cli.common import Best, Debug, Info, Latest, best_or_latest, parse_object, set_up

SEEDS_SHOWN = 8


class Players(StrEnum):
    leader = "leader"
    follower = "follower"
    agent = "agent"
    both = "both"


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint, a trial or an experiment.")],
    algo: Annotated[
        str | None, typer.Option("--algo", "--run", "-a", "-r", help="The algorithm; checked against the checkpoint.")
    ] = None,
    env: Annotated[str | None, typer.Option("--env", "-e", help="Another env than the checkpoint's.")] = None,
    config: Annotated[str, typer.Option("--config", "-c", help="Config keys to change, as JSON.")] = "{}",
    episodes: Annotated[int, typer.Option(help="Episodes (of each network).", min=1)] = 32,
    network: Annotated[
        Players, typer.Option(help="Who plays: leader, follower or both; a host alone has one network, agent.")
    ] = Players.both,
    render: Annotated[bool, typer.Option("--render", help="Render the env in a window (render_mode human).")] = False,
    save_gif: Annotated[
        Path | None, typer.Option(help="Folder for an animation of each episode (render_mode rgb_array).")
    ] = None,
    save_mp4: Annotated[
        Path | None, typer.Option(help="Folder for a video of each episode; needs rllib-ddn[video].")
    ] = None,
    save_replay: Annotated[Path | None, typer.Option(help="Folder for StarCraft's own replays (env smac).")] = None,
    best: Best = False,
    latest: Latest = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the results, as JSON.")] = None,
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Plays greedy episodes from a checkpoint.

    Prints the statistics of their returns, with 95% intervals. No training has used the episodes' seeds.
    """
    set_up(v, vv)
    changes = parse_object("--config", config, '{"num_envs_per_env_runner": 8}')
    if save_mp4 and not importlib.util.find_spec("av"):
        raise ValueError("--save-mp4 needs PyAV: pip install 'rllib-ddn[video]'")
    import ray

    from rllib_ddn.cli.checkpoints import class_and_config, find
    from rllib_ddn.cli.experiments import is_ours
    from rllib_ddn.rllib.evaluation import evaluate_checkpoint

    checkpoint = find(checkpoint, best_or_latest(best, latest))
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        algo_class, changed = class_and_config(checkpoint)
        if algo and algo != algo_class.__name__:
            raise ValueError(f"--algo is {algo}, but the checkpoint is of {algo_class.__name__}.")
        _change(changed, env, changes, episodes)
        drawn = bool(render or save_gif or save_mp4)
        if changed.env == "smac" and drawn:
            raise ValueError("StarCraft II draws itself: --save-replay writes replays, which the game shows.")
        if save_replay:
            if changed.env != "smac":
                raise ValueError(f"--save-replay is for the env smac; this is {changed.env}. --save-gif draws others.")
            replays = {"save_replay": True, "replay_dir": str(save_replay.absolute())}
            changed.environment(env_config={**changed.env_config, **replays})
        if is_ours(algo_class):
            networks = changed.networks if network is Players.both else (network.value,)
            if not set(networks) <= set(changed.networks):
                raise ValueError(f"--network {network}: {algo_class.__name__} has {' and '.join(changed.networks)}.")
            played = evaluate_checkpoint(changed, checkpoint, networks, episodes, render, save_gif, save_mp4)
            if save_replay:
                played["files"] += sorted(str(path) for path in save_replay.rglob("*.SC2Replay"))
        elif drawn:
            raise ValueError(
                f"--render, --save-gif and --save-mp4 draw the algorithms of this package, not {algo_class.__name__}."
            )
        else:
            played = _evaluate_others(changed, checkpoint, episodes)
    finally:
        ray.shutdown()
    results = {"checkpoint": str(checkpoint), **played}
    text = json.dumps(results, indent=2)
    typer.echo(text if as_json else report(results))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")


def _change(config: Any, env: str | None, changes: dict[str, Any], episodes: int) -> None:
    """Puts the command's options into a checkpoint's config, in place."""
    import torch

    from rllib_ddn.cli.experiments import check_env_name

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


def _evaluate_others(config: Any, checkpoint: Path, episodes: int) -> dict[str, Any]:
    """Evaluates one of RLlib's own algorithms, of whose env runners only the first seed can be set."""
    from rllib_ddn.random_streams import seed_sequence

    config.debugging(seed=int(seed_sequence("checkpoint_evaluation", config.seed or 0).generate_state(1)[0] >> 1))
    algo = config.build_algo()
    restore = algo.restore_from_path if config.enable_rl_module_and_learner else algo.restore
    restore(str(checkpoint))
    played = algo.evaluate()["env_runners"]
    algo.stop()
    keys = ("episode_return_mean", "episode_return_min", "episode_return_max", "episode_len_mean")
    figures = {key: played[key] for key in keys if key in played}
    return {"policy": {"episodes": episodes, **figures}, "seeds": [config.seed], "files": []}


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
        known = f"not given, for {reason}" if transfer is None else f"{transfer:.4g}"
        lines.append(f"knowledge transfer: {known}")
    seeds = [str(seed) for seed in results["seeds"]]
    rest = f", ... ({len(seeds)}; --json has all)" if len(seeds) > SEEDS_SHOWN else ""
    lines.append(f"seeds, which no training uses: {', '.join(seeds[:SEEDS_SHOWN])}{rest}")
    lines += [f"wrote {file}" for file in results["files"]]
    return "\n".join(lines)


def _with_interval(mean: float, interval: list[float | None] | None) -> str:
    if interval is None or interval[0] is None:
        return f"{mean:.4g}"
    return f"{mean:.4g} [{interval[0]:.4g}, {interval[1]:.4g}]"
