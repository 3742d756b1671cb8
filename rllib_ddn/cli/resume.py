"""`rllib train --resume`: finds where an experiment was left, and readies its files to continue from there."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer
from pyarrow.fs import FileSelector, FileSystem, FileType
from ray.rllib.algorithms.algorithm import Algorithm
from ray.tune import ExperimentAnalysis, ResumeConfig
from ray.tune.experiment import Trial
from ray.tune.registry import get_trainable_cls
from ray.tune.search.sample import Domain
from ray.tune.utils import flatten_dict
from tensorboardX.proto.event_pb2 import Event

from rllib_ddn.cli.checkpoints import check_checkpoint
from rllib_ddn.cli.experiments import merged

SETTINGS = "rllib_train.json"  # the file in an experiment's folder that says what the experiment was begun with
FROM_A_CHECKPOINT = "An earlier checkpoint is continued by --restore, under another name (-n)."


class Folder:
    """An experiment's folder, on this machine or in a cloud's storage."""

    def __init__(self, storage_path: str, name: str) -> None:
        self._fs, self._root = FileSystem.from_uri(storage_path)
        self.name, self.path = name, f"{self._root}/{name}"
        self.is_local = "://" not in storage_path

    def files(self, pattern: str) -> list[str]:
        """Names of its files, or those one folder down, that match a regular expression, in order."""
        selector = FileSelector(self.path, recursive="/" in pattern, allow_not_found=True)
        found = [info.path for info in self._fs.get_file_info(selector) if info.type == FileType.File]
        names = [path.removeprefix(f"{self.path}/") for path in found]
        return sorted(name for name in names if re.fullmatch(pattern, name))

    def read(self, name: str) -> bytes:
        with self._fs.open_input_stream(f"{self.path}/{name}") as stream:
            return stream.read()

    def write(self, name: str, data: bytes) -> None:
        with self._fs.open_output_stream(f"{self.path}/{name}") as stream:
            stream.write(data)

    def numbers(self) -> list[int]:
        """Of the folders NAME_1, NAME_2, ... beside it."""
        found = self._fs.get_file_info(FileSelector(str(self._root), allow_not_found=True))
        matches = [re.fullmatch(re.escape(self.name) + r"_(\d+)", info.base_name) for info in found]
        return [int(match[1]) for match in matches if match]

    def move_aside(self, trial: str = "") -> str:
        """Moves it, or a trial's folder in it, to NAME.old-K beside it; returns where that is."""
        k = 1
        while self._fs.get_file_info(f"{self.path}.old-{k}").type != FileType.NotFound:
            k += 1
        aside = f"{self.path}.old-{k}"
        if trial:
            self._fs.create_dir(aside)
        self._fs.move(f"{self.path}/{trial}".rstrip("/"), f"{aside}/{trial}".rstrip("/"))
        return aside

    def trials(self) -> list[Trial]:
        """The trials as Tune has saved them; none where it has saved nothing.

        Raises:
            ValueError: the state cannot be read.
        """
        if not (states := self.files(r"experiment_state-.*\.json")):
            return []
        try:
            return ExperimentAnalysis(self.path, storage_filesystem=self._fs).trials
        except Exception as error:  # whatever reading a cut-off file raises
            raise ValueError(
                f"{self.path}/{states[-1]} cannot be read ({type(error).__name__}). {FROM_A_CHECKPOINT}"
            ) from error

    def trim(self, trial: str, last: Mapping[str, Any]) -> None:
        """Cuts a trial's results off after a given one; a line or event that was not written to its end goes too."""
        iteration = last["training_iteration"]
        for name in self.files(re.escape(trial) + r"/(result\.json|progress\.csv|events\.out\.tfevents\..*)"):
            data = self.read(name)
            if name.endswith("result.json"):
                kept = _results_until(data.decode(), iteration).encode()
            elif name.endswith("progress.csv"):
                kept = _rows_until(data.decode(), iteration).encode()
            else:
                kept = _events_until(data, last.get("timesteps_total") or iteration)  # as Tune's logger has it
            self.write(name, kept)


def _results_until(text: str, iteration: int) -> str:
    kept = []
    for line in text.splitlines(keepends=True):
        try:
            if json.loads(line)["training_iteration"] > iteration:
                break
        except json.JSONDecodeError:
            break
        kept.append(line)
    return "".join(kept)


def _rows_until(text: str, iteration: int) -> str:
    header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [["training_iteration"]]
    column = header.index("training_iteration")
    out = io.StringIO(newline="")
    csv.writer(out).writerows([header, *(r for r in rows if len(r) == len(header) and int(r[column]) <= iteration)])
    return out.getvalue()


def _events_until(data: bytes, step: int) -> bytes:
    """The records of a TensorBoard file (length [8 bytes], its checksum [4], event, checksum [4]) up to a step."""
    kept, start = [], 0
    while (end := start + 16 + int.from_bytes(data[start : start + 8], "little")) <= len(data):
        if Event.FromString(data[start + 12 : end - 4]).step <= step:
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def begin(name: str, spec: dict[str, Any], settings: dict[str, Any]) -> None:
    """Writes down what an experiment is begun with.

    Raises:
        ValueError: an experiment of this name has results. Two trainings in one folder would be taken for one.
    """
    folder = Folder(spec["storage_path"], name)
    if folder.files(r"[^/]*/progress\.csv"):
        raise ValueError(
            f"{folder.path} has the results of an earlier training: --resume continues it; a new one takes another "
            "name (-n, or the experiment's in the file) or another --storage-path."
        )
    folder.write(SETTINGS, json.dumps(settings).encode())


def settings_of(spec: dict[str, Any]) -> dict[str, Any]:
    """What must be the same when an experiment is resumed: algorithm and config, without defaults, as JSON has them."""
    config = {key: value for key, value in spec["config"].items() if key != "log_level"}
    return _as_json({"run": spec["run"], "config": config})


def _with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the algorithm's present defaults, so that a default that a new version adds makes no difference."""
    algo = get_trainable_cls(settings["run"])
    defaults = algo.get_default_config().to_dict() if issubclass(algo, Algorithm) else {}
    config = merged(_as_json(defaults), settings["config"])
    return {"run": settings["run"], **{key: value for key, value in config.items() if key != "log_level"}}


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings, default=_name, skipkeys=True))


def _name(value: Any) -> Any:
    """What stands in JSON for a value that JSON does not have: of NumPy's their values, of all others a name."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Domain):
        return f"{type(value).__name__} {value.domain_str}"
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def resume(name: str, spec: dict[str, Any], settings: dict[str, Any]) -> ResumeConfig | None:
    """Readies an experiment's folder for Tune to resume from it: what results have beyond the checkpoints is cut off,
    and results without a checkpoint are moved aside.

    Args:
        name, spec: the experiment, completed by :func:`rllib_ddn.cli.experiments.complete`.
        settings: of the experiment, see :func:`settings_of`.

    Returns:
        What Tune is to resume; None where there is nothing, and the experiment begins from scratch.

    Raises:
        ValueError: it was begun with other settings, or its state or a checkpoint cannot be read.
    """
    folder = Folder(spec["storage_path"], name)
    trials = folder.trials()
    if not _can_be_resumed(trials):
        if folder.files(r"[^/]*/result\.json"):
            typer.echo(f"rllib: no checkpoint: starting over; the old results are now in {folder.move_aside()}")
        else:
            typer.echo(f"rllib: no earlier training to resume in {folder.path}: starting from scratch.")
        return None
    if different := _difference(folder, settings):
        key, begun, given = different
        raise ValueError(
            f"{folder.path} was begun with {key} = {begun!r}, and --resume continues with that, not with {given!r}: "
            "name the new experiment differently (-n, or its name in the file)."
        )
    extends = spec["scheduler"] == "fifo" and any(_is_extended(trial, spec["stop"]) for trial in trials)
    left = [trial for trial in trials if extends or trial.status != Trial.TERMINATED]
    if not left:
        more = "a larger --stop would continue it" if spec["scheduler"] == "fifo" else "its scheduler has ended it"
        typer.echo(f"rllib: {folder.path} is finished already; {more}.")
    for trial in left:
        newest = trial.run_metadata.checkpoint_manager.latest_checkpoint_result
        if newest:
            if folder.is_local:
                try:
                    check_checkpoint(Path(newest.checkpoint.path))
                except ValueError as error:
                    raise ValueError(f"{error} {FROM_A_CHECKPOINT}") from error
            folder.trim(trial.relative_logdir, newest.metrics)
            if folder.is_local:
                # Tune deletes a checkpoint before it saves that it has, and after a kill in between misses the folder.
                for kept in trial.run_metadata.checkpoint_manager.best_checkpoint_results:
                    Path(kept.checkpoint.path).mkdir(exist_ok=True)
        elif folder.files(re.escape(trial.relative_logdir) + r"/result\.json"):
            aside = folder.move_aside(trial.relative_logdir)
            typer.echo(f"rllib: no checkpoint of {trial}: starting over; the old results are now in {aside}")
    kinds = ResumeConfig.ResumeType
    return ResumeConfig(finished=kinds.RESUME if extends else kinds.SKIP, errored=kinds.RESUME)


def _can_be_resumed(trials: Sequence[Trial]) -> bool:
    """Whether anything is left of trials: a finished one, or a checkpoint."""
    return any(trial.status == Trial.TERMINATED or trial.checkpoint for trial in trials)


def _is_extended(trial: Trial, stop: Mapping[str, float]) -> bool:
    """Whether a finished trial, which met the stopping criteria that it began with, does not meet the present ones."""
    return trial.status == Trial.TERMINATED and bool(stop) and not _is_met(stop, trial.last_result or {})


def _is_met(stop: Mapping[str, float], result: Mapping[str, Any]) -> bool:
    flat = flatten_dict(dict(result))
    return any(flat.get(key, -math.inf) >= value for key, value in stop.items())


def _difference(folder: Folder, settings: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting that differs: its key, what the experiment was begun with, and the present value."""
    if not folder.files(re.escape(SETTINGS)):
        raise ValueError(f"{folder.path} was not begun by this version's `rllib train`. {FROM_A_CHECKPOINT}")
    saved = json.loads(folder.read(SETTINGS))
    if saved["run"] != settings["run"]:
        return "run", saved["run"], settings["run"]
    begun, given = (flatten_dict(_with_defaults(each), delimiter=".") for each in (saved, settings))
    different = (key for key in {**given, **begun} if begun.get(key) != given.get(key))
    return next(((key, begun.get(key), given.get(key)) for key in different), None)


def name_of(base: str, spec: dict[str, Any], settings: dict[str, Any], resume: bool) -> str:
    """The name of an experiment that was given none: BASE_1, BASE_2, ...

    Args:
        base: what the numbers are appended to.
        spec: the experiment, completed by :func:`rllib_ddn.cli.experiments.complete`.
        settings: of the experiment, see :func:`settings_of`.
        resume: whether to continue one: the newest unfinished one with these settings, else the newest finished one.

    Returns:
        An earlier one's name to resume it; else a new one, whose folder has been made on this machine.
    """
    parent = Folder(spec["storage_path"], base)
    numbers = sorted(parent.numbers(), reverse=True)
    finished = []
    for number in numbers if resume else ():
        folder = Folder(spec["storage_path"], f"{base}_{number}")
        if not folder.files(re.escape(SETTINGS)) or _difference(folder, settings):
            continue
        try:
            trials = folder.trials()
        except ValueError as error:
            typer.echo(f"rllib: {error}", err=True)
            continue
        if not _can_be_resumed(trials):
            continue
        if any(trial.status != Trial.TERMINATED for trial in trials):
            return folder.name
        finished.append(folder.name)
    if finished:
        return finished[0]
    number = max(numbers, default=0) + 1
    while parent.is_local:
        try:
            Path(spec["storage_path"], f"{base}_{number}").mkdir(parents=True)
            break
        except FileExistsError:  # of a command that was started at the same time
            number += 1
    return f"{base}_{number}"
