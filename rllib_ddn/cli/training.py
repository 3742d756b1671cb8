"""What `rllib train` does: it runs experiments on Ray Tune."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import re
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import typer
from ray.cluster_utils import Cluster
from ray.tune import TuneError, run_experiments
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback, LoggerCallback, TBXLoggerCallback
from ray.tune.registry import get_trainable_cls
from ray.tune.schedulers import create_scheduler
from ray.tune.search.variant_generator import generate_variants
from ray.tune.utils import flatten_dict

from rllib_ddn.cli.experiments import check, check_storage, checkpoint_by_default, complete, is_ours
from rllib_ddn.cli.interruption import DiskWatch, Interruption
from rllib_ddn.cli.options import Tracker, TrainOptions, command, fail, one_line_errors
from rllib_ddn.cli.results import CheckpointInTime, ContinuedCSVLogger, KeepResults, Reporter, StopKeys
from rllib_ddn.cli.resume import check_checkpoint, check_unused, name_of, prepare
from rllib_ddn.rllib.score import BEST, env_steps_of


def run(experiments: dict[str, dict[str, Any]], options: TrainOptions, numbered: bool = False) -> None:
    """Completes the experiments with the command's options, checks them, and runs them on Tune.

    Args:
        experiments: by name.
        options: the command's.
        numbered: whether the one experiment has no name of its own: it becomes ALGO_ENV_1, or what number is free.
    """
    with Interruption() as interruption:
        trials: list[Trial] = []
        stop_ray = contextlib.ExitStack()
        try:
            with contextlib.suppress(KeyboardInterrupt):
                _run(experiments, options, interruption, trials, stop_ray, numbered)
        finally:
            with one_line_errors(1):
                stop_ray.close()
    again = "the same command" if options.resume else "the same command with --resume"
    left = [trial for trial in trials if not _finished(trial)]
    if interruption.why and (left or not trials):
        saved = any(trial.checkpoint for trial in trials)
        then = f"{again} continues from there" if saved else "nothing new was saved"
        fail(f"{interruption.why}; {then}.", interruption.code)
    if failed := [trial for trial in trials if trial.status == Trial.ERROR]:
        saved = any(trial.checkpoint for trial in failed)
        then = f"; {again} continues from their checkpoints" if saved else ", without a checkpoint"
        fail(f"{len(failed)} trials failed{then}.", 1)


def _run(
    experiments: dict[str, dict[str, Any]],
    options: TrainOptions,
    interruption: Interruption,
    trials: list[Trial],
    stop_ray: contextlib.ExitStack,
    numbered: bool,
) -> None:
    """Puts the trials that ran into the list, and what stops Ray onto the stack."""
    with one_line_errors():
        # Not None, which would join whatever cluster happens to run on this machine.
        address = options.ray_address or os.environ.get("RAY_ADDRESS", "local")
        scheduler_name, arguments = complete(experiments, options)
        for name, spec in experiments.items():
            check(name, spec, learns_here=address == "local")
            if spec.get("restore"):
                check_checkpoint(Path(spec["restore"]))
        scheduler = create_scheduler(scheduler_name, **arguments)
        if options.track and importlib.util.find_spec(options.track) is None:
            raise ValueError(f"--track {options.track} needs its package: pip install {options.track}")
        if options.ray_num_nodes:
            _check_nodes(experiments, options.ray_num_nodes * (options.ray_num_cpus or 1))
        else:
            _check_address(address)
        may_mutate = scheduler_name.startswith("pb")
        by_the_clock = checkpoint_by_default(experiments)
        if numbered:
            (spec,) = experiments.values()
            check_storage("", spec)
            base = re.sub(r"[^\w.-]+", "-", f"{spec['run']}_{spec['config']['env']}")
            experiments = {name_of(base, spec, options.resume, may_mutate): spec}
            by_the_clock = set(experiments) if by_the_clock else set()
        for name, spec in experiments.items():
            check_storage(name, spec)
            if not options.resume:
                check_unused(name, spec["storage_path"])
            if not spec.get("stop"):
                typer.echo(f"rllib: {name} runs until it is interrupted, for it has no stop, such as timesteps_total.")
        trackers = _trackers(options.track, next(iter(experiments)))
        interruption.let_pause(scheduler)
        others = {name for name in by_the_clock if not is_ours(get_trainable_cls(experiments[name]["run"]))}
        resumed = prepare(experiments, may_mutate) if options.resume else None
        typer.echo(
            f"Starting Ray for {', '.join(experiments)}; results go to {next(iter(experiments.values()))['storage_path']}."
        )
        if options.track is Tracker.tensorboard:
            for name, spec in experiments.items():
                typer.echo(f"  tensorboard --logdir {spec['storage_path']}/{name}")
        if all(is_ours(get_trainable_cls(spec["run"])) for spec in experiments.values()):
            # Ray's processes inherit this: a SIGTERM that goes to the whole group, as systemd and timeout send it, leaves them
            # alive until the trials are saved. Ours let their games end by it (ignore_sigterm), others' would not.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            _start_ray(options, address, stop_ray)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        interruption.listen()
    with one_line_errors(1):
        try:
            trials += run_experiments(
                experiments,
                scheduler=scheduler,
                callbacks=[
                    JsonLoggerCallback(),
                    ContinuedCSVLogger(),
                    TBXLoggerCallback(),
                    *trackers,
                    StopKeys(),
                    KeepResults(),
                    CheckpointInTime(by_the_clock, at_best=others),  # after the loggers, which would write what it adds
                    interruption,
                    DiskWatch(interruption),
                    *([resumed] if resumed else []),
                ],
                resume="AUTO+ERRORED" if resumed else False,
                verbose=2 if options.v or options.vv else 1,
                progress_reporter=Reporter(),
                raise_on_failed_trial=False,
                concurrent=True,
            )
        except TuneError as error:
            # Its text is a traceback, whose last line tells.
            raise OSError(
                f"{str(error).strip().splitlines()[-1]}; --resume continues from the last checkpoint."
            ) from error
    for trial in trials:
        _tell(trial)
    for line in best_trials(trials):
        typer.echo(line)


def _trackers(name: Tracker | None, project: str) -> list[LoggerCallback]:
    """Ray's logger of an experiment tracker, but for TensorBoard's, which every run has; servers and keys are what the tracker's
    own environment variables say.

    Args:
        name: the tracker.
        project: name of the project or experiment there, unless the environment names another.
    """
    if name is Tracker.mlflow:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        return [MLflowLoggerCallback(experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", project))]
    if name is not Tracker.wandb:
        return []
    from ray.air.integrations.wandb import WandbLoggerCallback

    # The trial's id is the run's.
    return [WandbLoggerCallback(project=os.environ.get("WANDB_PROJECT", project), resume="allow")]


def _finished(trial: Trial) -> bool:
    """Whether it came to its stop; one that is interrupted ends without."""
    return trial.status == Trial.TERMINATED and bool(trial.last_result.get("done"))


def _tell(trial: Trial) -> None:
    """Prints how a trial ended and what it left."""
    if trial.status == Trial.ERROR:
        typer.echo(f"{trial}: {_reason(trial)}; the traceback is in {trial.error_file}", err=True)
    status = "error" if trial.status == Trial.ERROR else "terminated" if _finished(trial) else "interrupted"
    typer.echo(f"{trial}: {status}, results in {trial.path}")
    if (trial.last_result or {}).get("info", {}).get("num_updates") == 0:
        typer.echo("  nothing was learned: learning starts when the replay holds train_batch_size episodes.")
    for line in kept(trial):
        typer.echo(line)


def kept(trial: Trial) -> list[str]:
    """Lines that name a trial's best and latest checkpoint, each with its score and the commands that take it."""
    latest, best = trial.latest_checkpoint_result, _best(trial)
    checkpoints: dict[str, tuple[str, Mapping[str, Any]]] = {}
    if best and best[1]["training_iteration"] != latest.metrics["training_iteration"]:
        checkpoints = {"best": best, "latest": (latest.checkpoint.path, latest.metrics)}
    elif latest:
        checkpoints = {"best and latest" if best else "latest": (latest.checkpoint.path, latest.metrics)}
    lines = []
    for name, (path, metrics) in checkpoints.items():
        about = [f"iteration {metrics['training_iteration']}"] if "training_iteration" in metrics else []
        about += [f"{steps:,.0f} env steps"] if (steps := env_steps_of(metrics)) else []
        about += [f"score {metrics['score']:.4g}"] if math.isfinite(metrics.get("score", math.nan)) else []
        lines += [f"  {name}: {', '.join(about)}", f"    {command()} evaluate {path}"]
        if is_ours(get_trainable_cls(trial.trainable_name)):
            lines.append(f"    {command()} export {path} --out policy")
    return lines


def _best(trial: Trial) -> tuple[str, Mapping[str, Any]] | None:
    """Path and figures of a trial's best checkpoint; None where none is scored."""
    manager = trial.run_metadata.checkpoint_manager
    latest, ranked = manager.latest_checkpoint_result, manager.best_checkpoint_result
    if latest and BEST in latest.metrics and is_ours(get_trainable_cls(trial.trainable_name)):
        found = (f"{latest.checkpoint.path}/{BEST}", latest.metrics[BEST])
    elif ranked and manager.checkpoint_config.checkpoint_score_attribute == "score":
        found = (ranked.checkpoint.path, ranked.metrics)
    else:
        return None
    return found if math.isfinite(found[1].get("score", math.nan)) else None


def best_trials(trials: Sequence[Trial]) -> list[str]:
    """Of each experiment with several trials a line: the best one, and what its config has that others have not."""
    experiments: dict[str, list[Trial]] = {}
    for trial in trials:
        experiments.setdefault(trial.storage.experiment_dir_name, []).append(trial)
    lines = []
    for name, its in experiments.items():
        scored = [(best[1]["score"], trial) for trial in its if (best := _best(trial))]
        if len(its) < 2 or not scored:
            continue
        if len({_has_win_rates(trial) for _, trial in scored}) > 1:
            lines.append(f"{name}: no best trial, for some are scored by win rates and others by returns")
            continue
        score, chosen = max(scored, key=lambda each: each[0])
        configs = [flatten_dict(trial.config, delimiter=".") for trial in its]
        config = flatten_dict(chosen.config, delimiter=".")
        differs = [key for key in config if len({repr(other.get(key)) for other in configs}) > 1]
        settings = [
            f"{key}={value:.4g}" if isinstance(value := config[key], float) else f"{key}={value}" for key in differs
        ]
        line = f"{name}: the best of {len(its)} trials is {chosen}, score {score:.4g}"
        lines.append(f"{line}, with {', '.join(settings)}" if settings else line)
    return lines


def _has_win_rates(trial: Trial) -> bool:
    """Whether a trial's score is a win rate, not a return."""
    known = [values for key, values in trial.metric_analysis.items() if key.rpartition("/")[2] == "win_rate"]
    return any(math.isfinite(value) for values in known for value in values.values())


def _reason(trial: Trial) -> str:
    """The last line of a failed trial's traceback."""
    lines = Path(trial.error_file).read_text().strip().splitlines() if trial.error_file else []
    return lines[-1] if lines else "failed"


def _start_ray(options: TrainOptions, address: str, stop_ray: contextlib.ExitStack) -> None:
    level = logging.INFO if options.v or options.vv else logging.ERROR
    if options.ray_num_nodes:
        cluster = Cluster()
        stop_ray.callback(cluster.shutdown)  # else scripts on this machine would keep looking for it
        for _ in range(options.ray_num_nodes):
            cluster.add_node(
                num_cpus=options.ray_num_cpus or 1, num_gpus=options.ray_num_gpus or 0, include_dashboard=False
            )
        stop_ray.callback(ray.shutdown)
        ray.init(address=cluster.address, log_to_driver=options.vv, logging_level=level)
    else:
        stop_ray.callback(ray.shutdown)
        ray.init(
            address=address,
            num_cpus=options.ray_num_cpus,
            num_gpus=options.ray_num_gpus,
            include_dashboard=False,
            log_to_driver=options.vv,
            logging_level=level,
        )


def _check_nodes(experiments: dict[str, dict[str, Any]], cpus: int) -> None:
    """Ray itself waits for more nodes, and none joins those that are emulated.

    Raises:
        ValueError: a trial needs more CPUs than all nodes have.
    """
    for name, spec in experiments.items():
        if not is_ours(algo := get_trainable_cls(spec["run"])):
            continue
        for _, variant in generate_variants(spec["config"]):
            need = algo.default_resource_request(variant).required_resources.get("CPU", 0)
            if need > cpus:
                raise ValueError(
                    f"a trial of {name} needs {need:g} CPUs, and all nodes have {cpus}: raise --ray-num-cpus (of each node) or "
                    "--ray-num-nodes, or lower num_env_runners."
                )


def _check_address(address: str) -> None:
    """Ray itself waits for minutes where nobody answers.

    Raises:
        ValueError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise ValueError(
                f"no Ray cluster answers at {address} ({error}); without --ray-address one is started."
            ) from None
