"""What `rllib train` adds to a Tune run: progress table and CSV, checkpoints by the clock, a safe interruption."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from pyarrow.fs import LocalFileSystem, copy_files
from ray.tune import Callback, CLIReporter
from ray.tune.experiment import Trial
from ray.tune.logger import CSVLoggerCallback
from ray.tune.result import SHOULD_CHECKPOINT
from ray.tune.schedulers import TrialScheduler
from ray.tune.utils import flatten_dict

from rllib_ddn.cli.experiments import RESERVE
from rllib_ddn.names import nearest
from rllib_ddn.rllib.progress import first_iteration
from rllib_ddn.rllib.score import BEST


class Interruption(Callback):
    """Ends a Tune run on SIGINT or SIGTERM, or when :meth:`stop` is called, after every trial has been saved.

    By itself Tune handles SIGINT alone, and drops what trials did since their last checkpoints. Here each running
    trial finishes its iteration and is paused, which saves it; a second signal ends the run at once.

    Attributes:
        why: the reason for the user, or None while nothing interrupts.
        code: the command's exit code then.
    """

    def __init__(self) -> None:
        self.why: str | None = None
        self.code = 0
        self._tuning = False
        self._waiting: set[str] | None = None  # trials that were running at the interruption

    def stop(self, why: str, code: int) -> None:
        """Has the trials saved and the run ended."""
        if self.why is None:
            self.why, self.code = why, code
            line = f"\nrllib: {why}; waiting for the iteration to end, to save it. Ctrl-C now ends at once, unsaved.\n"
            os.write(2, line.encode())  # not print(), which a signal may have interrupted

    def __enter__(self) -> Interruption:
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        self.listen()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Handles the signals from here on; to be called again after Ray has started, which replaces a handler."""
        for number in self._handlers:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if not self._tuning:
            self.why, self.code = "interrupted", 128 + number
            raise KeyboardInterrupt
        if self.why is not None:
            signal.raise_signal(signal.SIGUSR1)
        self.stop("interrupted", 128 + number)

    def let_pause(self, scheduler: TrialScheduler) -> None:
        """Makes a scheduler pause each trial at its next result once the run is interrupted, and start none."""
        decide, choose = scheduler.on_trial_result, scheduler.choose_trial_to_run
        scheduler.on_trial_result = lambda *given: TrialScheduler.PAUSE if self.why else decide(*given)
        scheduler.choose_trial_to_run = lambda *given: None if self.why else choose(*given)

    def setup(self, **info: Any) -> None:
        self._tuning = True

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if not self.why:
            return
        running = {trial.trial_id for trial in trials if trial.status == Trial.RUNNING}
        self._waiting = running if self._waiting is None else self._waiting & running
        if not self._waiting:
            signal.raise_signal(signal.SIGUSR1)  # Tune saves the experiment's state and returns

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._tuning = False


class DiskWatch(Callback):
    """Interrupts a run while the disk still has room to save it."""

    SECONDS = 5.0

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption
        self._last = 0.0
        self._largest = 0  # bytes of a checkpoint

    def on_trial_save(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if trial.storage.storage_filesystem.type_name == "local" and trial.checkpoint:
            size = sum(path.stat().st_size for path in Path(trial.checkpoint.path).rglob("*"))
            self._largest = max(self._largest, size)

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if not trials or time.monotonic() - self._last < self.SECONDS:
            return
        self._last = time.monotonic()
        storage = trials[0].storage
        if storage.storage_filesystem.type_name == "local":
            free = shutil.disk_usage(storage.storage_fs_path).free
            running = sum(trial.status == Trial.RUNNING for trial in trials)
            if free < RESERVE + (running + 1) * self._largest:
                where = storage.storage_fs_path
                self._interruption.stop(f"only {free / 1e6:.0f} MB are left on the disk of {where}", 1)


class CheckpointInTime(Callback):
    """Checkpoints a trial at the first result that is ``SECONDS`` after its last checkpoint."""

    SECONDS = 120.0

    def __init__(self, at_best: bool) -> None:
        """Args: at_best: whether to checkpoint at each best score, too, as for algorithms whose checkpoints do not hold
        the best state."""
        self._at_best = at_best
        self._last: dict[str, float] = {}  # of trial ids, when they started or were saved

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._last[trial.trial_id] = time.monotonic()

    on_trial_save = on_trial_start

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        late = time.monotonic() - self._last[trial.trial_id] >= self.SECONDS
        best = self._at_best and result.get(BEST, {}).get("training_iteration") == result["training_iteration"]
        if late or best:
            result[SHOULD_CHECKPOINT] = True


class Stop(Callback):
    """Applies the stopping criteria of this command to resumed trials, of which Tune keeps those that they began with;
    and reports criteria that the first result lacks."""

    def __init__(self, stop: Mapping[str, float]) -> None:
        self._stop, self._checked = dict(stop), False

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        for trial in trials:
            trial.stopping_criterion = self._stop

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        if self._checked:
            return
        self._checked, keys = True, flatten_dict(result)
        for key in self._stop.keys() - keys.keys():
            hint = f" Did you mean {near[0]}?" if (near := nearest(key, keys)) else ""
            line = f"rllib: the first result has no {key}: --stop has no effect unless a later one has it.{hint}"
            typer.echo(line, err=True)


class ProgressCSV(CSVLoggerCallback):
    """``progress.csv`` with a column for every key of every result: Tune's own has those of the first result, and after
    a resume those of the first one since. The file is rewritten with a wider header when a result has a new key.

    A subclass of Tune's, which Tune would add otherwise.
    """

    def log_trial_result(self, iteration: int, trial: Trial, result: dict) -> None:
        storage, path = trial.storage, Path(trial.local_path, "progress.csv")
        row = flatten_dict({key: value for key, value in result.items() if key != "config"}, delimiter="/")
        if not path.exists():  # in this session
            with contextlib.suppress(FileNotFoundError):
                stored = f"{storage.trial_fs_path}/progress.csv"
                copy_files(stored, str(path), storage.storage_filesystem, LocalFileSystem())
        rows: list[dict[str, Any]] = []
        columns: list[str] = []
        if path.exists():
            with path.open(newline="") as file:
                columns = next(csv.reader(file), [])
                if not row.keys() <= set(columns):
                    rows = list(csv.DictReader(file, columns))
        if not row.keys() <= set(columns):
            columns = list(dict.fromkeys([*columns, *row]))
            with path.with_suffix(".new").open("w", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)
            path.with_suffix(".new").replace(path)
        with path.open("a", newline="") as file:
            csv.DictWriter(file, columns).writerow(row)


class Reporter(CLIReporter):
    """Tune's live table, with leader and follower beside RLlib's own columns, and the time left.

    It is printed when a trial has a new result or status, every few seconds at most.
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
        super().__init__(metric_columns=columns, print_intermediate_tables=True)
        self._rows: list[tuple[Any, ...]] = []
        self._time = -math.inf

    def should_report(self, trials: list[Trial], done: bool = False) -> bool:
        now = time.monotonic()
        if not done and now - self._time < self.SECONDS:
            return False
        rows = [(trial.trial_id, trial.status, _iteration(trial)) for trial in trials]
        if rows == self._rows and not done:
            return False
        self._rows, self._time = rows, now
        return True

    def report(self, trials: list[Trial], done: bool, *system: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            super().report(trials, done)
        # The command reports failed trials at the end; and no user needs the folder where Tune puts files first.
        table = printed.getvalue().split("Number of errored trials")[0]
        lines = [line for line in table.splitlines() if line and not line.startswith("Result logdir")]
        running = [trial for trial in trials if trial.status == Trial.RUNNING]
        if not done:
            lines += [f"{trial}: {_progress(trial)}" for trial in running[:20]]
            if not running:
                lines.append("Starting Ray's workers; the first results come after an iteration.")
        typer.echo("\n".join(lines) + "\n")


def _iteration(trial: Trial) -> str:
    iteration = (trial.last_result or {}).get("training_iteration")
    return str(iteration) if iteration else _progress(trial)


def _progress(trial: Trial) -> str:
    result = trial.last_result or {}  # before the first result, what Tune knows of the trial
    if "training_iteration" in result:
        return progress(result, trial.stopping_criterion)
    return first_iteration(Path(trial.storage.trial_fs_path).name)


def progress(result: Mapping[str, Any], stop: Mapping[str, float]) -> str:
    """Env steps per second of the last iteration, and the time left until a trial stops.

    Args:
        result: the trial's last result.
        stop: the stopping criteria; those that grow evenly give the time left.
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
