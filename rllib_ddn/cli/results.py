"""What a training leaves and shows while it runs: result files, checkpoints by the clock, the live table."""

from __future__ import annotations

import csv
import math
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import typer
from pyarrow.fs import FileSelector, LocalFileSystem, copy_files
from ray.air.constants import EXPR_PROGRESS_FILE
from ray.tune import Callback, CLIReporter
from ray.tune.experiment import Trial
from ray.tune.logger import CSVLoggerCallback
from ray.tune.result import SHOULD_CHECKPOINT
from ray.tune.utils import flatten_dict

from rllib_ddn.names import nearest
from rllib_ddn.rllib.progress import first_iteration
from rllib_ddn.rllib.score import BEST


class CheckpointInTime(Callback):
    """Checkpoints a trial at the first result that is ``SECONDS`` after its last checkpoint, and some at each best score."""

    SECONDS = 120.0

    def __init__(self, experiments: Collection[str], at_best: Collection[str] = ()) -> None:
        """
        Args:
            experiments: the names of those whose trials are checkpointed so.
            at_best: of these, those whose checkpoints do not keep the best state by themselves.
        """
        self._experiments, self._at_best = experiments, at_best
        self._last: dict[str, float] = {}  # of trial ids, when they started or were saved

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._last[trial.trial_id] = time.monotonic()

    on_trial_save = on_trial_start

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        name = trial.storage.experiment_dir_name
        late = name in self._experiments and time.monotonic() - self._last[trial.trial_id] >= self.SECONDS
        best = name in self._at_best and result.get(BEST, {}).get("training_iteration") == result["training_iteration"]
        if late or best:
            result[SHOULD_CHECKPOINT] = True


class StopKeys(Callback):
    """Reports, once for each key, that a trial is to stop at a key that its first result lacks."""

    def __init__(self) -> None:
        self._seen: set[str] = set()  # trial ids and keys

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        if trial.trial_id in self._seen:
            return
        keys = flatten_dict(result)
        for key in trial.stopping_criterion.keys() - keys.keys() - self._seen:
            near = nearest(key, keys)
            hint = f" Did you mean {near[0]}?" if near else ""
            typer.echo(
                f"rllib: the first result has no {key}: --stop has no effect unless a later one has it.{hint}", err=True
            )
        self._seen |= {trial.trial_id, *trial.stopping_criterion}


class KeepResults(Callback):
    """Brings each trial's results to where they are stored, at the latest when a checkpoint is. Of several
    experiments in one run, Tune itself does so for the first only (ray-project/ray issue 48757), and a
    run that is killed would leave fewer results than its checkpoint has."""

    SECONDS = 30.0

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._told = False

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        if time.monotonic() - self._last.get(trial.trial_id, -self.SECONDS) >= self.SECONDS:
            self.on_trial_complete(iteration, trials, trial)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._last[trial.trial_id] = time.monotonic()
        storage = trial.storage
        try:
            storage.storage_filesystem.create_dir(storage.trial_fs_path)
            copy_files(trial.local_path, storage.trial_fs_path, LocalFileSystem(), storage.storage_filesystem)
            self._told = False
        except OSError as error:
            if not self._told:
                typer.echo(
                    f"rllib: results cannot be written to {trial.path} ({error}); they are in {trial.local_path}",
                    err=True,
                )
            self._told = True

    on_trial_save = on_trial_complete

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Also removes a checkpoint that could not be written to its end, as on a full disk."""
        storage = trial.storage
        newest = (
            trial.run_metadata.checkpoint_manager.latest_checkpoint_result
        )  # its own, not one that it was restored from
        whole = Path(newest.checkpoint.path).name if newest else ""
        for found in storage.storage_filesystem.get_file_info(
            FileSelector(storage.trial_fs_path, allow_not_found=True)
        ):
            if re.fullmatch(r"checkpoint_\d+", found.base_name) and found.base_name > whole:
                storage.storage_filesystem.delete_dir(found.path)
        self.on_trial_complete(iteration, trials, trial)


class ContinuedCSVLogger(CSVLoggerCallback):
    """Tune's ``progress.csv`` with a column for every key: Tune has those of the first result, and after a resume those of
    the first one since. The file is rewritten with a wider header when a result has a new key."""

    def log_trial_result(self, iteration: int, trial: Trial, result: dict) -> None:
        if trial not in self._trial_files:
            self._setup_trial(trial)
        path = Path(trial.local_path, EXPR_PROGRESS_FILE)
        keys = flatten_dict({key: value for key, value in result.items() if key != "config"}, delimiter="/")
        with path.open(newline="") as file:
            columns = next(csv.reader(file), [])
            wider = list(dict.fromkeys([*columns, *keys]))
            rows = list(csv.DictReader(file, columns)) if columns and columns != wider else []
        if columns != wider:
            self._trial_files[trial].close()
            with path.with_suffix(".new").open("w", newline="") as file:
                writer = csv.DictWriter(file, wider)
                writer.writeheader()
                writer.writerows(rows)
            path.with_suffix(".new").replace(path)
            self._trial_files[trial], self._trial_csv[trial] = path.open("a", newline=""), None
        if self._trial_csv[trial] is None:
            self._trial_continue[trial] = True  # the header is there
            self._trial_csv[trial] = csv.DictWriter(self._trial_files[trial], wider)
        super().log_trial_result(iteration, trial, result)


class Reporter(CLIReporter):
    """Tune's live table, with leader and follower beside RLlib's own columns, and how long it will take.

    It is printed when a trial has a new result or status, every few seconds at most; before the first results it says how
    far they are.
    """

    SECONDS = 5.0

    def __init__(self) -> None:
        columns = {
            "training_iteration": "iter",
            "time_total_s": "total time (s)",
            "timesteps_total": "env steps",
            "env_runners/episode_return_mean": "train return",
            "evaluation/leader/episode_return_mean": "leader",
            "evaluation/follower/episode_return_mean": "follower",
            "evaluation/knowledge_transfer": "transfer",
            "evaluation/agent/episode_return_mean": "greedy return",
            "evaluation/leader/win_rate": "leader wins",
            "evaluation/follower/win_rate": "follower wins",
            "evaluation/agent/win_rate": "win rate",
            "best/score": "best score",
        }
        super().__init__(metric_columns=columns)
        self._rows: list[tuple[Any, ...]] = []
        self._time = -math.inf

    def should_report(self, trials: list[Trial], done: bool = False) -> bool:
        now = time.monotonic()
        if not done and now - self._time < self.SECONDS:
            return False
        rows = [
            (t.trial_id, t.status, (t.last_result or {}).get("training_iteration") or self._progress(t)) for t in trials
        ]
        if rows == self._rows and not done:
            return False
        self._rows, self._time = rows, now
        return True

    def report(self, trials: list[Trial], done: bool, *system: str) -> None:
        # Of failed trials the command tells at the end; and no user needs the folder where Tune puts files first.
        table = self._progress_str(trials, done).split("Number of errored trials")[0]
        lines = [line for line in table.splitlines() if line and not line.startswith("Result logdir")]
        running = [trial for trial in trials if trial.status == Trial.RUNNING]
        if not done:
            lines += [f"{trial}: {self._progress(trial)}" for trial in running[:20]]
            if not running:
                lines.append("Starting Ray's workers; the first results come after an iteration.")
        typer.echo("\n".join(lines) + "\n")

    @staticmethod
    def _progress(trial: Trial) -> str:
        result = trial.last_result or {}  # before the first, what Tune knows of the trial
        if "training_iteration" in result:
            return progress(result, trial.stopping_criterion)
        return first_iteration(Path(trial.storage.trial_fs_path).name)


def progress(result: Mapping[str, Any], stop: Mapping[str, float]) -> str:
    """Env steps per second of the last iteration, and the time left until a trial stops.

    Args:
        result: the trial's last result.
        stop: at which values of which keys it stops; those that grow evenly tell the time.
    """
    told, steps = [], result.get("num_env_steps_sampled_this_iter")
    if steps and result["time_this_iter_s"] > 0:
        told.append(f"{steps / result['time_this_iter_s']:,.0f} env steps/s")
    # What an iteration adds, and how long one takes since the trial was started or restored.
    duration = result["time_since_restore"] / max(1, result["iterations_since_restore"])
    added = {"timesteps_total": steps, "training_iteration": 1, "time_total_s": duration}
    even = [key for key, amount in added.items() if key in stop and amount]
    if even:
        # Stopping criteria are checked after each iteration.
        seconds = min(math.ceil((stop[key] - result[key]) / added[key]) for key in even) * duration
        minutes, seconds = divmod(max(0, round(seconds)), 60)
        told.append(f"about {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left")
    return ", ".join(told) or f"iteration {result['training_iteration']}"
