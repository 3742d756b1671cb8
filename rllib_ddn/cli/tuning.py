"""Runs experiments on Ray Tune, one after the other, and reports what each trial left."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import re
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import typer
from ray.cluster_utils import Cluster
from ray.tune import Callback, TuneError, run_experiments
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback, TBXLoggerCallback
from ray.tune.registry import get_trainable_cls
from ray.tune.schedulers import create_scheduler
from ray.tune.utils import flatten_dict

from rllib_ddn.cli.callbacks import CheckpointInTime, DiskWatch, Interruption, ProgressCSV, Reporter, Stop
from rllib_ddn.cli.checkpoints import check_checkpoint
from rllib_ddn.cli.common import command, fail, one_line_errors
from rllib_ddn.cli.experiments import check, check_storage, checkpoint_by_default, complete, is_ours
from rllib_ddn.cli.resume import begin, name_of, resume, settings_of
from rllib_ddn.cli.train import Tracker, TrainOptions
from rllib_ddn.rllib.score import BEST, env_steps_of


def run(
    experiments: dict[str, dict[str, Any]], options: TrainOptions, numbered: bool = False, again: str | None = None
) -> None:
    """Completes the experiments with the command's options, checks them all, and runs each on Tune.

    Args:
        experiments: by name.
        options: the command's.
        numbered: whether the one experiment has no name: it becomes ALGO_ENV_1, or with the next free number.
        again: what to do to continue; by default the same command with ``--resume``.

    Raises:
        typer.Exit: something is not accepted, a trial failed, or the run was interrupted.
    """
    trials: list[Trial] = []
    waiting = len(experiments)
    with Interruption() as interruption, contextlib.suppress(KeyboardInterrupt):
        with one_line_errors():
            # Not None, which would join whatever cluster happens to run on this machine.
            address = options.ray_address or os.environ.get("RAY_ADDRESS", "local")
            complete(experiments, options)
            schedulers = _check(experiments, options, address)
            experiments = _named(experiments, options, numbered)
            typer.echo(f"Starting Ray for {', '.join(experiments)}.")
        with contextlib.ExitStack() as ray_is_running:
            with one_line_errors():
                ray_is_running.enter_context(_started_ray(options, address, experiments))
                interruption.listen()
            for (name, spec), scheduler in zip(experiments.items(), schedulers, strict=True):
                _tune(name, spec, scheduler, options, interruption, trials)
                waiting -= 1
                if interruption.why:
                    break
    again = again or ("the same command" if options.resume else "the same command with --resume")
    if end := conclusion(trials, waiting, interruption, again):
        fail(*end)


def conclusion(trials: Sequence[Trial], waiting: int, interruption: Interruption, again: str) -> tuple[str, int] | None:
    """The last line of a run that was interrupted or failed, and its exit code; None of one that went well.

    Args:
        trials: that ran.
        waiting: number of experiments that have not come to their end.
        again: what continues the run.
    """
    if interruption.why and (waiting or not all(map(_finished, trials))):
        saved = any(trial.checkpoint for trial in trials)
        then = f"{again} continues from there" if saved else "nothing new was saved"
        return f"{interruption.why}; {then}.", interruption.code
    if failed := [trial for trial in trials if trial.status == Trial.ERROR]:
        saved = any(trial.checkpoint for trial in failed)
        then = f"; {again} continues from their checkpoints" if saved else ", without a checkpoint"
        return f"{len(failed)} trials failed{then}.", 1
    return None


def _check(experiments: dict[str, dict[str, Any]], options: TrainOptions, address: str) -> list[Any]:
    """Checks all that can be before Ray starts; returns the experiments' schedulers."""
    if options.track and importlib.util.find_spec(options.track) is None:
        raise ValueError(f"--track {options.track} needs its package: pip install {options.track}")
    if not options.ray_num_nodes:
        _check_address(address)
    schedulers = []
    for name, spec in experiments.items():
        check(name, spec, learns_here=address == "local")
        if spec.get("restore"):
            check_checkpoint(Path(spec["restore"]))
        schedulers.append(create_scheduler(spec["scheduler"], **spec["scheduler_config"]))
        if not spec["stop"]:
            typer.echo(f"rllib: {name} runs until it is interrupted: it has no stop, such as timesteps_total.")
    return schedulers


def _named(experiments: dict[str, dict[str, Any]], options: TrainOptions, numbered: bool) -> dict[str, dict[str, Any]]:
    """The experiments by the names of their folders, which are there afterwards; an unused name is made known in it.

    Raises:
        ValueError: results cannot be written there, or are there already and not to be resumed.
    """
    if numbered:
        (spec,) = experiments.values()
        check_storage("", spec)
        base = re.sub(r"[^\w.-]+", "-", f"{spec['run']}_{spec['config']['env']}")
        experiments = {name_of(base, spec, settings_of(spec), options.resume): spec}
    for name, spec in experiments.items():
        settings = settings_of(spec)
        check_storage(name, spec)
        spec["resume_config"] = resume(name, spec, settings) if options.resume else None
        if not spec["resume_config"]:
            check_storage(name, spec)  # what was there may have been moved aside
            begin(name, spec, settings)
    return experiments


def _tune(
    name: str, spec: dict[str, Any], scheduler: Any, options: TrainOptions, interruption: Interruption, ran: list[Trial]
) -> None:
    """Runs an experiment, appends its trials to those that ``ran``, and prints what they left."""
    with one_line_errors(1):
        ours = is_ours(get_trainable_cls(spec["run"]))
        own = ("scheduler", "scheduler_config", "resume_config")
        spec, resume_config = {key: value for key, value in spec.items() if key not in own}, spec["resume_config"]
        by_the_clock = checkpoint_by_default(spec)
        typer.echo(f"{name}: results go to {spec['storage_path']}/{name}.")
        if options.track is Tracker.tensorboard:
            typer.echo(f"  tensorboard --logdir {spec['storage_path']}/{name}")
        interruption.let_pause(scheduler)
        callbacks: list[Callback] = [JsonLoggerCallback(), ProgressCSV(), TBXLoggerCallback()]
        callbacks += [*_trackers(options.track, name), Stop(spec["stop"]), interruption, DiskWatch(interruption)]
        if by_the_clock:
            callbacks.append(CheckpointInTime(at_best=not ours))  # after the loggers, which would write what it adds
        try:
            trials = run_experiments(
                {name: spec},
                scheduler=scheduler,
                callbacks=callbacks,
                resume_config=resume_config,
                verbose=2 if options.v or options.vv else 1,
                progress_reporter=Reporter(),
                raise_on_failed_trial=False,
            )
        except TuneError as error:  # its text is a traceback
            last = str(error).strip().splitlines()[-1]
            raise OSError(f"{last}; --resume continues from the last checkpoint.") from error
        ran += trials  # before the reports, which an interruption may cut short
        for trial in trials:
            _report(trial)
        if line := best_trial(name, trials):
            typer.echo(line)


def _trackers(tracker: Tracker | None, project: str) -> list[Callback]:
    """Ray's logger of an experiment tracker; servers and keys are in the tracker's own environment variables.

    Args:
        tracker: TensorBoard's logger is in every run.
        project: name of the project or experiment there, unless the environment names another.
    """
    if tracker is Tracker.mlflow:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        return [MLflowLoggerCallback(experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", project))]
    if tracker is Tracker.wandb:
        from ray.air.integrations.wandb import WandbLoggerCallback

        # The trial's id is the run's.
        return [WandbLoggerCallback(project=os.environ.get("WANDB_PROJECT", project), resume="allow")]
    return []


def _finished(trial: Trial) -> bool:
    """Whether it came to its stop; one that is interrupted ends without."""
    return trial.status == Trial.TERMINATED and bool(trial.last_result.get("done"))


def _report(trial: Trial) -> None:
    """Prints how a trial ended, and its best and latest checkpoint, each with score and the commands that take it."""
    if trial.status == Trial.ERROR:
        lines = Path(trial.error_file).read_text().strip().splitlines() if trial.error_file else []
        reason = lines[-1] if lines else "failed"
        typer.echo(f"{trial}: {reason}; the traceback is in {trial.error_file}", err=True)
    status = "error" if trial.status == Trial.ERROR else "terminated" if _finished(trial) else "interrupted"
    typer.echo(f"{trial}: {status}, results in {trial.path}")
    if (trial.last_result or {}).get("info", {}).get("num_updates") == 0:
        typer.echo("  nothing was learned: learning starts when the replay holds train_batch_size episodes.")
    latest, best = trial.run_metadata.checkpoint_manager.latest_checkpoint_result, _best(trial)
    checkpoints: dict[str, tuple[str, Mapping[str, Any]]] = {}
    if best and best[1]["training_iteration"] != latest.metrics["training_iteration"]:
        checkpoints = {"best": best, "latest": (latest.checkpoint.path, latest.metrics)}
    elif latest:
        checkpoints = {"best and latest" if best else "latest": (latest.checkpoint.path, latest.metrics)}
    for kind, (path, metrics) in checkpoints.items():
        about = [f"iteration {metrics['training_iteration']}"] if "training_iteration" in metrics else []
        about += [f"{steps:,.0f} env steps"] if (steps := env_steps_of(metrics)) else []
        about += [f"score {metrics['score']:.4g}"] if math.isfinite(metrics.get("score", math.nan)) else []
        typer.echo(f"  {kind}: {', '.join(about)}\n    {command()} evaluate {path}")
        if is_ours(get_trainable_cls(trial.trainable_name)):
            typer.echo(f"    {command()} export {path} --out policy")


def _best(trial: Trial) -> tuple[str, Mapping[str, Any]] | None:
    """Path and metrics of a trial's best checkpoint; None where none is scored."""
    manager = trial.run_metadata.checkpoint_manager
    latest, ranked = manager.latest_checkpoint_result, manager.best_checkpoint_result
    if latest and BEST in latest.metrics and is_ours(get_trainable_cls(trial.trainable_name)):
        found = (f"{latest.checkpoint.path}/{BEST}", latest.metrics[BEST])
    elif ranked and manager.checkpoint_config.checkpoint_score_attribute == "score":
        found = (ranked.checkpoint.path, ranked.metrics)
    else:
        return None
    return found if math.isfinite(found[1].get("score", math.nan)) else None


def best_trial(name: str, trials: Sequence[Trial]) -> str | None:
    """Of an experiment with several trials a line: the best one, and what its config has that others have not."""
    scored = [(best[1]["score"], trial) for trial in trials if (best := _best(trial))]
    if len(trials) < 2 or not scored:
        return None
    if len({_has_win_rates(trial) for _, trial in scored}) > 1:
        return f"{name}: no best trial, for some are scored by win rates and others by returns"
    score, chosen = max(scored, key=lambda each: each[0])
    configs = [flatten_dict(trial.config, delimiter=".") for trial in trials]
    config = flatten_dict(chosen.config, delimiter=".")
    differs = {key: config[key] for key in config if len({repr(other.get(key)) for other in configs}) > 1}
    settings = [f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in differs.items()]
    line = f"{name}: the best of {len(trials)} trials is {chosen}, score {score:.4g}"
    return f"{line}, with {', '.join(settings)}" if settings else line


def _has_win_rates(trial: Trial) -> bool:
    """Whether a trial's score is a win rate, not a return."""
    known = [values for key, values in trial.metric_analysis.items() if key.rpartition("/")[2] == "win_rate"]
    return any(math.isfinite(value) for values in known for value in values.values())


@contextlib.contextmanager
def _started_ray(options: TrainOptions, address: str, experiments: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Ray as the options say, which is shut down in the end."""
    common = {
        "log_to_driver": options.vv,
        "logging_level": logging.INFO if options.v or options.vv else logging.ERROR,
    }
    with contextlib.ExitStack() as stack:
        if all(is_ours(get_trainable_cls(spec["run"])) for spec in experiments.values()):
            # Ray's processes inherit this: a SIGTERM that goes to the whole group, as systemd and timeout send it,
            # leaves them alive until the trials are saved. Env runners of this package end by it, others would not.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            if options.ray_num_nodes:
                cluster = Cluster()
                stack.callback(cluster.shutdown)  # else scripts on this machine would keep looking for it
                cpus, gpus = options.ray_num_cpus or 1, options.ray_num_gpus or 0
                for _ in range(options.ray_num_nodes):
                    cluster.add_node(num_cpus=cpus, num_gpus=gpus, include_dashboard=False)
                stack.callback(ray.shutdown)
                ray.init(address=cluster.address, **common)
            else:
                stack.callback(ray.shutdown)
                resources = {"num_cpus": options.ray_num_cpus, "num_gpus": options.ray_num_gpus}
                ray.init(address=address, include_dashboard=False, **resources, **common)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        yield


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
