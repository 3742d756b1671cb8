"""Ctrl-C, SIGTERM or a disk that fills up in a training: every trial is saved before Ray goes down."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler


class Interruption(Callback):
    """Ends a Tune run on SIGINT or SIGTERM, or when :meth:`stop` is called.

    By itself Tune handles SIGINT alone, and drops what trials did since their last checkpoints. Here each
    running trial finishes its iteration and is paused, which saves it; a second signal ends the run at once.

    Attributes:
        why: what the user is to read, or None while nothing interrupts.
        code: the command's exit code then.
    """

    def __init__(self) -> None:
        self.why: str | None = None
        self.code = 0
        self._tuning = False
        self._waiting: set[str] | None = None  # trials that ran when the run was interrupted

    def stop(self, why: str, code: int) -> None:
        """Lets the trials be saved and the run end."""
        if self.why is None:
            self.why, self.code = why, code
            # Not print(), which a signal may have interrupted.
            os.write(
                2,
                f"\nrllib: {why}; waiting for the iteration to end, to save it. Ctrl-C now ends at once, unsaved.\n".encode(),
            )

    def __enter__(self) -> Interruption:
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        self.listen()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Handles the signals from here on; to be called again when Ray, which replaces a handler, has started."""
        for number in self._handlers:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        again = self.why is not None
        if self._tuning and again:
            signal.raise_signal(signal.SIGUSR1)
        elif self._tuning:
            self.stop("interrupted", 128 + number)
        else:
            self.why, self.code = "interrupted", 128 + number
            raise KeyboardInterrupt

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
    """Interrupts a run while there is still room to save it."""

    RESERVE = 20_000_000  # bytes, for results and Tune's state
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
        if time.monotonic() - self._last < self.SECONDS:
            return
        self._last = time.monotonic()
        running = sum(trial.status == Trial.RUNNING for trial in trials)
        local = {t.storage.storage_fs_path for t in trials if t.storage.storage_filesystem.type_name == "local"}
        for path in local:
            free = shutil.disk_usage(path).free
            if free < self.RESERVE + (running + 1) * self._largest:
                self._interruption.stop(f"only {free / 1e6:.0f} MB are left on the disk of {path}", 1)
