"""The ``rllib`` command: ``rllib train`` and ``rllib evaluate``.

Ray's own command left after Ray 2.41; this one takes the same sub-commands and options, as far
as they still mean something, and runs RLlib's own algorithms as well as this package's.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Train and evaluate RLlib algorithms, DDN among them.")
train_app = typer.Typer(
    invoke_without_command=True, help="Train: `rllib train file X.yaml`, or `rllib train --algo DDN --env predator_prey`."
)
app.add_typer(train_app, name="train")


class Network(StrEnum):
    leader = "leader"
    follower = "follower"
    both = "both"


Stop = Annotated[str, typer.Option("--stop", "-s", help="When to stop, as JSON: '{\"timesteps_total\": 100000}'.")]
NumSamples = Annotated[int | None, typer.Option(help="Times each configuration is run.")]
CheckpointFreq = Annotated[int | None, typer.Option(help="Iterations between checkpoints; 0 for none.")]
CheckpointAtEnd = Annotated[bool | None, typer.Option(help="Whether to checkpoint at the end.")]
KeepCheckpointsNum = Annotated[int | None, typer.Option(help="Number of checkpoints kept.")]
CheckpointScoreAttr = Annotated[
    str | None, typer.Option(help='Metric that ranks the checkpoints kept; "min-" before it for the smallest.')
]
StoragePath = Annotated[str | None, typer.Option("--storage-path", "--local-dir", help="Where results go; default ~/ray_results.")]
Restore = Annotated[str | None, typer.Option(help="Checkpoint directory to start from.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the experiment of this name, if there is one.")]
Scheduler = Annotated[str | None, typer.Option(help="Tune's trial scheduler, such as fifo, async_hyperband, pbt.")]
SchedulerConfig = Annotated[str, typer.Option(help="The scheduler's arguments, as JSON.")]
RayAddress = Annotated[str | None, typer.Option(help="Address of a running Ray cluster.")]
RayNumCpus = Annotated[int | None, typer.Option(help="CPUs of the cluster (of each node) that is started.")]
RayNumGpus = Annotated[int | None, typer.Option(help="GPUs of the cluster (of each node) that is started.")]
RayNumNodes = Annotated[int | None, typer.Option(help="Nodes to emulate on this machine.")]
Info = Annotated[bool, typer.Option("--log-info", "-v", help="Log at level INFO.")]
Debug = Annotated[bool, typer.Option("--log-debug", "-vv", help="Log at level DEBUG.")]


@train_app.callback()
def train(
    context: typer.Context,
    algo: Annotated[
        str | None, typer.Option("--algo", "--run", "-a", "-r", help="Registered algorithm, such as DDN or PPO.")
    ] = None,
    env: Annotated[str | None, typer.Option("--env", "-e", help="Registered env, such as predator_prey.")] = None,
    config: Annotated[str, typer.Option("--config", "-c", help="The algorithm's config, as JSON.")] = "{}",
    stop: Stop = "{}",
    experiment_name: Annotated[str, typer.Option("--experiment-name", "-n", help="Folder of the results.")] = "default",
    num_samples: NumSamples = None,
    checkpoint_freq: CheckpointFreq = None,
    checkpoint_at_end: CheckpointAtEnd = None,
    keep_checkpoints_num: KeepCheckpointsNum = None,
    checkpoint_score_attr: CheckpointScoreAttr = None,
    storage_path: StoragePath = None,
    restore: Restore = None,
    resume: Resume = False,
    scheduler: Scheduler = None,
    scheduler_config: SchedulerConfig = "{}",
    ray_address: RayAddress = None,
    ray_num_cpus: RayNumCpus = None,
    ray_num_gpus: RayNumGpus = None,
    ray_num_nodes: RayNumNodes = None,
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Trains one algorithm on one env."""
    if context.invoked_subcommand:
        return
    if not algo:
        _fail("--algo is missing: name an algorithm such as DDN, or use `rllib train file X.yaml`.")
    spec: dict[str, Any] = {"run": algo, "config": _json("--config", config)}
    if env:
        spec["config"]["env"] = env
    _run({experiment_name: spec}, locals())


@train_app.command("file")
def train_file(
    config_file: Annotated[Path, typer.Argument(help="X.yaml with experiments, or X.py with a variable `config`.")],
    stop: Stop = "{}",
    num_samples: NumSamples = None,
    checkpoint_freq: CheckpointFreq = None,
    checkpoint_at_end: CheckpointAtEnd = None,
    keep_checkpoints_num: KeepCheckpointsNum = None,
    checkpoint_score_attr: CheckpointScoreAttr = None,
    storage_path: StoragePath = None,
    restore: Restore = None,
    resume: Resume = False,
    scheduler: Scheduler = None,
    scheduler_config: SchedulerConfig = "{}",
    ray_address: RayAddress = None,
    ray_num_cpus: RayNumCpus = None,
    ray_num_gpus: RayNumGpus = None,
    ray_num_nodes: RayNumNodes = None,
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Trains what a file describes.

    A yaml file maps experiment names to `run`, `env`, `stop`, `config`, and optionally `num_samples`,
    `checkpoint_config`, `scheduler` and `scheduler_config`. A Python file has a variable `config` (an
    AlgorithmConfig) and optionally `stop` (a dict). Options given here win over the file.
    """
    _run(_load(config_file), locals())


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint directory.")],
    algo: Annotated[
        str | None, typer.Option("--algo", "--run", "-a", "-r", help="The algorithm; checked against the checkpoint.")
    ] = None,
    env: Annotated[str | None, typer.Option("--env", "-e", help="Another env than the checkpoint's.")] = None,
    config: Annotated[str, typer.Option("--config", "-c", help="Config keys to change, as JSON.")] = "{}",
    episodes: Annotated[int, typer.Option(help="Episodes (of each network).", min=1)] = 32,
    network: Annotated[Network, typer.Option(help="Who plays, for algorithms with a leader and a follower.")] = Network.both,
    render: Annotated[bool, typer.Option("--render", help="Draw the env in a window (render_mode human).")] = False,
    save_gif: Annotated[Path | None, typer.Option(help="Folder for an animation of each episode (render_mode rgb_array).")] = None,
    save_replay: Annotated[Path | None, typer.Option(help="Folder for StarCraft's own replays (env smac).")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the results, as JSON.")] = None,
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Plays greedy episodes from a checkpoint and prints their returns."""
    _quiet(v, vv)
    if not (checkpoint / "rllib_checkpoint.json").is_file():
        _fail(f"{checkpoint} is not a checkpoint: rllib_checkpoint.json is missing there.")
    changes = _json("--config", config)
    with _one_line_errors():
        results = _evaluate(checkpoint, algo, env, changes, episodes, network, render, save_gif, save_replay)
    typer.echo(json.dumps(results, indent=2))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2) + "\n")


def main() -> None:
    """The console script's entry."""
    app()


def _run(experiments: dict[str, dict[str, Any]], options: dict[str, Any]) -> None:
    """Completes the experiments with the command's options, checks them, and runs them on Tune."""
    _quiet(options["v"], options["vv"])
    stop = _json("--stop", options["stop"])
    schedulers = []
    for spec in experiments.values():
        spec["config"] = spec.get("config") or {}
        if "env" in spec:
            spec["config"]["env"] = spec.pop("env")
        if stop:
            spec["stop"] = stop
        for option in ("num_samples", "restore", "storage_path"):
            if options[option] is not None:
                spec[option] = options[option]
        if "storage_path" in spec and "://" not in spec["storage_path"]:
            spec["storage_path"] = str(Path(spec["storage_path"]).expanduser().absolute())
        if "restore" in spec:
            spec["restore"] = str(Path(spec["restore"]).expanduser().absolute())
        spec["checkpoint_config"] = _checkpoint_config(spec, options)
        schedulers.append((spec.pop("scheduler", None), spec.pop("scheduler_config", {})))
        spec["config"] = _samplers(spec["config"])
        if options["v"] or options["vv"]:
            spec["config"]["log_level"] = "DEBUG" if options["vv"] else "INFO"
    if len({json.dumps(scheduler, sort_keys=True) for scheduler in schedulers}) > 1:
        _fail("the experiments of one file share one scheduler; give them the same, or use several files.")
    name, arguments = schedulers[0]
    if options["scheduler"]:
        name, arguments = options["scheduler"], _json("--scheduler-config", options["scheduler_config"])

    with _one_line_errors():
        import ray
        from ray.tune import run_experiments
        from ray.tune.schedulers import create_scheduler

        import rllib_ddn  # noqa: F401  (registers DDN and the envs)

        for experiment, spec in experiments.items():
            _check(experiment, spec)
        scheduler = create_scheduler(name or "fifo", **arguments)
    if options["ray_num_nodes"]:
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        for _ in range(options["ray_num_nodes"]):
            cluster.add_node(num_cpus=options["ray_num_cpus"] or 1, num_gpus=options["ray_num_gpus"] or 0)
        ray.init(address=cluster.address, log_to_driver=options["vv"])
    else:
        # Not None, which would join whatever cluster happens to run on this machine.
        ray.init(
            address=options["ray_address"] or os.environ.get("RAY_ADDRESS", "local"),
            num_cpus=options["ray_num_cpus"],
            num_gpus=options["ray_num_gpus"],
            include_dashboard=False,
            log_to_driver=options["vv"],
        )
    trials = run_experiments(
        experiments,
        scheduler=scheduler,
        callbacks=[_keep_results()],
        resume="AUTO+ERRORED" if options["resume"] else False,
        verbose=2 if options["v"] or options["vv"] else 1,
        progress_reporter=_reporter(),
        raise_on_failed_trial=False,
        concurrent=True,
    )
    failed = [trial for trial in trials if trial.status == "ERROR"]
    for trial in trials:
        typer.echo(f"{trial}: {trial.status.lower()}, results in {trial.path}")
    ray.shutdown()
    if failed:
        _fail(f"{len(failed)} of {len(trials)} trials failed; the traceback is in error.txt in their folders.", code=1)


def _keep_results() -> Any:
    """A Tune callback that brings each trial's results to where they are stored. Of several experiments in
    one run, Tune itself does so for the first only (ray-project/ray issue 48757)."""
    import time

    from pyarrow.fs import LocalFileSystem, copy_files
    from ray.tune import Callback

    class KeepResults(Callback):
        SECONDS = 30.0

        def __init__(self) -> None:
            self._last: dict[str, float] = {}

        def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
            if time.monotonic() - self._last.get(trial.trial_id, -self.SECONDS) >= self.SECONDS:
                self.on_trial_complete(iteration, trials, trial)

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            self._last[trial.trial_id] = time.monotonic()
            storage = trial.storage
            storage.storage_filesystem.create_dir(storage.trial_fs_path)
            copy_files(trial.local_path, storage.trial_fs_path, LocalFileSystem(), storage.storage_filesystem)

        on_trial_error = on_trial_complete

    return KeepResults()


def _checkpoint_config(spec: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint options of Ray 2.41's command and files, in Tune's present form."""
    config = dict(spec.pop("checkpoint_config", {}))
    for new, old in (
        ("checkpoint_frequency", "checkpoint_freq"),
        ("checkpoint_at_end", "checkpoint_at_end"),
        ("num_to_keep", "keep_checkpoints_num"),
        ("checkpoint_score_attribute", "checkpoint_score_attr"),
    ):
        if old in spec:
            config[new] = spec.pop(old)
        if options[old] is not None:
            config[new] = options[old]
    score = config.get("checkpoint_score_attribute") or ""
    if score.startswith("min-"):
        config["checkpoint_score_attribute"], config["checkpoint_score_order"] = score.removeprefix("min-"), "min"
    return config


def _samplers(value: Any) -> Any:
    """Replaces ``{tune.NAME: [arguments]}`` by Tune's sampler of that name, at any depth."""
    if isinstance(value, list):
        return [_samplers(item) for item in value]
    if not isinstance(value, dict):
        return value
    key, arguments = next(iter(value.items()), ("", []))
    if len(value) == 1 and str(key).startswith("tune."):
        from ray import tune

        name = key.removeprefix("tune.")
        if name not in ("choice", "uniform", "quniform", "loguniform", "qloguniform", "randn", "randint", "qrandint", "lograndint"):
            _fail(f"{key} is no sampler of Ray Tune; tune.choice, tune.uniform and tune.loguniform are.")
        return tune.choice(arguments) if name == "choice" else getattr(tune, name)(*arguments)
    return {k: _samplers(item) for k, item in value.items()}


def _check(experiment: str, spec: dict[str, Any]) -> None:
    """Builds the config of every variant here, where an error is a line and not a worker's traceback.

    Raises:
        ValueError: something in the experiment is not accepted.
    """
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.tune.registry import get_trainable_cls
    from ray.tune.search.variant_generator import generate_variants

    from rllib_ddn import ValueDecomposition

    if not isinstance(spec.get("run"), str):
        raise ValueError(f"the experiment {experiment!r} names no algorithm: add `run: DDN`.")
    algo = get_trainable_cls(spec["run"])
    if not issubclass(algo, Algorithm):
        return
    if not spec["config"].get("env"):
        raise ValueError(f"the experiment {experiment!r} names no env: add `env: predator_prey`, or --env.")
    checked_envs = []
    for _, variant in generate_variants(spec["config"]):
        config = algo.get_default_config().update_from_dict(variant)
        config.validate()
        if issubclass(algo, ValueDecomposition) and config.env_config not in checked_envs:
            config.check_env()
            checked_envs.append(config.env_config)


def _load(path: Path) -> dict[str, dict[str, Any]]:
    """Experiments from a yaml or Python file."""
    if not path.is_file():
        _fail(f"there is no file {path}.")
    if path.suffix in (".yaml", ".yml"):
        try:
            experiments = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            _fail(f"{path} is not yaml: {' '.join(str(error).split())}")
        if not isinstance(experiments, dict) or not all(isinstance(spec, dict) for spec in experiments.values()):
            _fail(f"{path} must map experiment names to their settings (run, env, stop, config).")
        return experiments
    if path.suffix != ".py":
        _fail(f"{path} is neither .yaml nor .py.")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec
    assert module_spec.loader
    module = importlib.util.module_from_spec(module_spec)
    with _one_line_errors():
        module_spec.loader.exec_module(module)
    if not hasattr(module, "config"):
        _fail(f"{path} has no variable `config`: make it an AlgorithmConfig.")
    config = module.config
    algo = config.algo_class.__name__
    return {path.stem: {"run": algo, "config": config.to_dict(), "stop": getattr(module, "stop", {})}}


def _evaluate(
    checkpoint: Path,
    algo_name: str | None,
    env: str | None,
    changes: dict[str, Any],
    episodes: int,
    network: Network,
    render: bool,
    save_gif: Path | None,
    save_replay: Path | None,
) -> dict[str, Any]:
    import ray
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.utils.checkpoints import get_checkpoint_info

    import rllib_ddn
    from rllib_ddn.rllib.evaluation import evaluate_checkpoint

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    checkpoint = checkpoint.absolute()
    info = get_checkpoint_info(str(checkpoint))
    if float(str(info["checkpoint_version"])) >= 2.0:  # RLlib's new API stack
        algo = Algorithm.from_checkpoint(str(checkpoint))
        state_class, config = type(algo), algo.config.copy(copy_frozen=False)
        algo.stop()
    else:
        state = Algorithm._checkpoint_info_to_algorithm_state(info)
        state_class = state["algorithm_class"]
        config = state_class.get_default_config().update_from_dict(dict(state["config"]))
    if algo_name and algo_name != state_class.__name__:
        raise ValueError(f"--algo is {algo_name}, but the checkpoint is of {state_class.__name__}.")
    if env:
        config.environment(env)
    config.update_from_dict({"num_env_runners": 0, "evaluation_num_env_runners": 0, "evaluation_interval": 1, **changes})
    config.evaluation(evaluation_duration=episodes, evaluation_duration_unit="episodes")
    if save_replay:
        if config.env != "smac":
            raise ValueError(f"--save-replay is for the env smac; this is {config.env}. --save-gif draws others.")
        config.environment(env_config={**config.env_config, "save_replay": True, "replay_dir": str(save_replay.absolute())})
    try:
        if issubclass(state_class, rllib_ddn.ValueDecomposition):
            networks = config.networks if network is Network.both else (network.value,)
            if not set(networks) <= set(config.networks):
                raise ValueError(f"--network {network.value}: {state_class.__name__} has no such network, leave it out.")
            return evaluate_checkpoint(config, checkpoint, networks, episodes, render, save_gif)
        if render or save_gif:
            raise ValueError(f"--render and --save-gif draw the algorithms of this package, not {state_class.__name__}.")
        algo = config.build_algo()
        algo.restore_from_path(str(checkpoint)) if config.enable_rl_module_and_learner else algo.restore(str(checkpoint))
        played = algo.evaluate()["env_runners"]
        algo.stop()
        return {
            key: played[key]
            for key in ("episode_return_mean", "episode_return_min", "episode_return_max", "episode_len_mean")
            if key in played
        }
    finally:
        ray.shutdown()


def _reporter() -> Any:
    """Tune's live table, with leader and follower beside RLlib's own columns."""
    from ray.tune import CLIReporter

    return CLIReporter(
        metric_columns={
            "training_iteration": "iter",
            "time_total_s": "total time (s)",
            "timesteps_total": "env steps",
            "env_runners/episode_return_mean": "train return",
            "evaluation/leader/episode_return_mean": "leader",
            "evaluation/follower/episode_return_mean": "follower",
            "evaluation/knowledge_transfer": "transfer",
            "evaluation/agent/episode_return_mean": "greedy return",
        },
        max_report_frequency=10,
    )


def _json(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        _fail(f"{option} is not JSON ({error.msg} at character {error.pos}): {text}")
    if not isinstance(value, dict):
        _fail(f"{option} is a JSON object such as '{{\"lr\": 0.0005}}'; got {text}")
    return value


def _quiet(v: bool, vv: bool) -> None:
    """Leaves Ray's deprecation chatter out unless more logging is asked for."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's newer output cannot show chosen columns
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not (v or vv):
        warnings.filterwarnings("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.WARNING)


class _one_line_errors:  # noqa: N801
    """A context in which errors in what the user gave end the command with one line and code 2."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None or isinstance(error, (SystemExit, KeyboardInterrupt, typer.Exit)):
            return
        if kind is not None and "-vv" in sys.argv:
            return
        _fail(" ".join(str(error).split()) or type(error).__name__)


def _fail(message: str, code: int = 2) -> Any:
    typer.echo(f"rllib: {message}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
