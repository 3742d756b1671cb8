"""`rllib train --resume`: where an experiment was left, and its files made ready to continue from there."""

from __future__ import annotations

import contextlib
import copy
import csv
import fnmatch
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import typer
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem
from ray import cloudpickle
from ray.rllib.algorithms.algorithm import Algorithm
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.registry import get_trainable_cls
from ray.tune.search.sample import Domain
from ray.tune.utils import flatten_dict
from tensorboardX.proto.event_pb2 import Event

from rllib_ddn.cli.options import fail
from rllib_ddn.names import OWN_FILES
from rllib_ddn.rllib.accepts import same
from rllib_ddn.rllib.checkpoint import UNFINISHED
from rllib_ddn.rllib.score import add_score

FROM_A_CHECKPOINT = "An earlier checkpoint is continued by --restore, under another name (-n)."


class Resumed(Callback):
    """Corrects what Tune does to resumed trials: of several experiments it puts all trials into the first
    one's folder, and it stops them where the file said when they began."""

    def __init__(self, homes: dict[str, str], experiments: dict[str, dict[str, Any]]) -> None:
        """Args: homes: of trial ids, the experiments' names."""
        self._homes, self._experiments = homes, experiments

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._homes and self._homes.keys().isdisjoint(trial.trial_id for trial in trials):
            raise OSError("Ray Tune cannot resume the experiment; -v shows why. " + FROM_A_CHECKPOINT)
        for trial in trials:
            home = self._homes.pop(trial.trial_id, None)
            if home is None:
                continue
            trial.stopping_criterion = self._experiments[home].get("stop") or {}
            if home != trial.storage.experiment_dir_name:
                with contextlib.suppress(OSError):
                    Path(trial.local_path).rmdir()  # Tune has just made it
                storage = copy.copy(trial.storage)
                storage.experiment_dir_name = home
                trial.set_storage(storage)
                trial.init_local_path()


def prepare(experiments: dict[str, dict[str, Any]], may_mutate: bool = False) -> Resumed | None:
    """Readies the experiments' folders for Tune to resume from them: what results have beyond the
    checkpoints is cut off, and results without a checkpoint are moved beside.

    Args:
        experiments: completed by :func:`rllib_ddn.cli.experiments.complete`.
        may_mutate: whether a scheduler changes configs, as population based training does.

    Returns:
        A callback for the run; None if there is nothing to resume.
    """
    folders = {name: Folder(spec["storage_path"], name) for name, spec in experiments.items()}
    first = next(iter(folders.values()))  # Tune keeps the state of all experiments there
    left_by = Saved.of(first)
    if not left_by.trials:
        if left_by.unread:
            fail(f"{left_by.unread[0]}. {FROM_A_CHECKPOINT}")
        old = [folder for folder in folders.values() if folder.files("*/result.json")]
        for folder in old:
            typer.echo(f"rllib: no checkpoint: starting over; the old results are now in {folder.move_aside()}")
        if not old:
            typer.echo(f"rllib: no earlier training to resume in {first.path}: starting from scratch.")
        return None
    if left_by.newer:
        first.move_aside(left_by.newer)
    for line in left_by.unread:
        typer.echo(f"rllib: {line}; an earlier run is resumed.")
    homes = {trial.trial_id: trial.storage.experiment_dir_name for trial in left_by.trials}
    for trial in left_by.trials:
        if (spec := experiments.get(homes[trial.trial_id])) and (different := _difference(trial, spec, may_mutate)):
            fail(
                f"{first.path} was begun with {different[0]} = {different[1]!r}, and --resume continues with that, not with "
                f"{different[2]!r}: name the new experiment differently (-n, or its name in the file)."
            )
    left = [trial for trial in left_by.trials if _is_left(trial, experiments.get(homes[trial.trial_id], {}))]
    if not left:
        typer.echo(f"rllib: {first.path} is finished already; a larger --stop would continue it.")
    for trial in left:
        home = homes[trial.trial_id]
        if home not in folders:
            fail(f"{first.path} is of other experiments, {home!r} among them: name the new ones differently.")
        newest = trial.run_metadata.checkpoint_manager.latest_checkpoint_result
        if newest:
            if folders[home].is_local:
                _check_newest(Path(folders[home].path, trial.relative_logdir, Path(newest.checkpoint.path).name))
            folders[home].trim(trial.relative_logdir, newest.metrics)
        elif folders[home].has(f"{trial.relative_logdir}/result.json"):
            aside = folders[home].move_aside([trial.relative_logdir])
            typer.echo(f"rllib: no checkpoint of {trial}: starting over; the old results are now in {aside}")
    if extended := {trial.trial_id for trial in left if trial.status == Trial.TERMINATED}:
        first.reopen(left_by.state, extended)
    return Resumed(homes, experiments)


def name_of(base: str, spec: dict[str, Any], resume: bool, may_mutate: bool) -> str:
    """The name of an experiment that was given none: BASE_1, BASE_2, ...

    Args:
        base: what the numbers are appended to.
        spec: the experiment, completed by :func:`rllib_ddn.cli.experiments.complete`.
        resume: whether to continue one: the newest unfinished one with these settings, else the newest finished one.
        may_mutate: see :func:`prepare`.

    Returns:
        An earlier one's name to resume it; else a new one, whose folder has been made on this machine.
    """
    parent = Folder(spec["storage_path"], base)
    numbers = parent.numbers()
    if resume:
        found = {
            f"{base}_{k}": Saved.of(Folder(spec["storage_path"], f"{base}_{k}")).trials
            for k in sorted(numbers, reverse=True)
        }
        fit = {
            name: trials
            for name, trials in found.items()
            if trials and not any(_difference(t, spec, may_mutate) for t in trials)
        }
        left = [name for name, trials in fit.items() if any(trial.status != Trial.TERMINATED for trial in trials)]
        if names := [*left, *fit]:
            return names[0]
    number = max(numbers, default=0) + 1
    while parent.is_local:
        try:
            Path(spec["storage_path"], f"{base}_{number}").mkdir(parents=True)
            break
        except FileExistsError:  # of a command that was started at the same time
            number += 1
    return f"{base}_{number}"


def check_unused(name: str, storage_path: str) -> None:
    """Two trainings in one folder would be taken for one: by plots, and by --resume.

    Raises:
        ValueError: an experiment of this name has results.
    """
    folder = Folder(storage_path, name)
    if folder.files("*/progress.csv"):
        raise ValueError(
            f"{folder.path} has the results of an earlier training: --resume continues it; a new one takes another name "
            "(-n, or the experiment's in the file) or another --storage-path."
        )


def _is_left(trial: Trial, spec: dict[str, Any]) -> bool:
    """Whether a trial is to be continued: it is not finished, or came to its stop and now has a later one."""
    if trial.status != Trial.TERMINATED:
        return True
    last, stop = flatten_dict(trial.last_result or {}), spec.get("stop") or {}
    old, new = (
        any(last.get(key, -math.inf) >= value for key, value in s.items()) for s in (trial.stopping_criterion, stop)
    )
    return bool(stop) and old and not new


def _difference(trial: Trial, spec: dict[str, Any], may_mutate: bool) -> tuple[str, Any, Any] | None:
    """The first setting that differs: its key, the trial's value and the experiment's; None if there is none."""
    algo = get_trainable_cls(trial.trainable_name)
    defaults = algo.get_default_config().to_dict() if issubclass(algo, Algorithm) else {}
    begun = {"run": trial.trainable_name} | ({} if may_mutate else _merged(defaults, trial.config))
    given = {"run": spec["run"]} | ({} if may_mutate else _merged(defaults, spec["config"]))
    key = "callbacks_on_train_result"
    for config in (begun, given):
        if key in config:  # without what the command adds to it
            functions = config[key] if isinstance(config[key], (list, tuple)) else [config[key]]
            config[key] = [function for function in functions if function not in (None, add_score)]
    for key in {**given, **begun}:
        if key != "log_level" and not _may_be(begun.get(key), given.get(key)):
            return key, begun.get(key), given.get(key)
    return None


def _merged(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What a config comes to: of a dict among the defaults, a key that is not given stays as it is."""
    nested = {
        k: _merged(defaults[k], v)
        for k, v in given.items()
        if isinstance(v, dict) and isinstance(defaults.get(k), dict)
    }
    return {**defaults, **given, **nested}


def _may_be(theirs: Any, given: Any) -> bool:
    """Whether a trial's setting may come from what an experiment says, which may leave a choice."""
    if isinstance(given, Domain):
        return True
    if isinstance(given, dict):
        if "grid_search" in given:
            return True
        return isinstance(theirs, dict) and all(_may_be(theirs.get(key), given.get(key)) for key in {**theirs, **given})
    if isinstance(given, (list, tuple)):
        return isinstance(theirs, (list, tuple)) and len(theirs) == len(given) and all(map(_may_be, theirs, given))
    return callable(given) or same(theirs, given)


def _check_newest(checkpoint: Path) -> None:
    try:
        check_checkpoint(checkpoint)
    except ValueError as error:
        fail(f"{error} {FROM_A_CHECKPOINT}")


@dataclass
class Saved:
    """What Tune has saved of an experiment.

    Attributes:
        state: the path of the newest state that has a finished trial or a checkpoint; "" if none has.
        trials: those of that state.
        newer: the names of newer states' files, which Tune would take.
        unread: a line about each state that cannot be read.
    """

    state: str = ""
    trials: list[Trial] = field(default_factory=list)
    newer: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Folder) -> Saved:
        saved = cls()
        for state in sorted(folder.files("experiment_state-*.json"), reverse=True):
            search = state.replace("experiment_state", "basic-variant-state")
            try:
                trials = []
                for trial_state, metadata in json.loads(folder.read(state))["trial_data"]:
                    trials.append(Trial.from_json_state(trial_state, stub=True))
                    trials[-1].restore_run_metadata(metadata)
                cloudpickle.loads(folder.read(search))
            except Exception as error:  # whatever unpickling a cut-off file raises
                saved.unread.append(f"{state} or {PurePosixPath(search).name} cannot be read ({type(error).__name__})")
                trials = []
            if any(
                t.status == Trial.TERMINATED or t.run_metadata.checkpoint_manager.latest_checkpoint_result
                for t in trials
            ):
                saved.state, saved.trials = state, trials
                break
            saved.newer += [PurePosixPath(state).name, PurePosixPath(search).name]
        return saved


class Folder:
    """An experiment's folder, on this machine or in a cloud's storage."""

    def __init__(self, storage_path: str, name: str) -> None:
        self.is_local = "://" not in storage_path
        self._fs, root = (LocalFileSystem(), storage_path) if self.is_local else FileSystem.from_uri(storage_path)
        self._root, self._name = PurePosixPath(root), name
        self.path = self._root / name

    def files(self, pattern: str) -> list[str]:
        """Paths of its files, or those one folder down, that match a pattern."""
        found = self._fs.get_file_info(FileSelector(str(self.path), recursive="/" in pattern, allow_not_found=True))
        names = {
            str(PurePosixPath(info.path).relative_to(self.path)): info.path
            for info in found
            if info.type == FileType.File
        }
        depth = pattern.count("/")
        return [path for name, path in names.items() if name.count("/") == depth and fnmatch.fnmatchcase(name, pattern)]

    def has(self, name: str) -> bool:
        """Whether a file or folder is in it."""
        return self._fs.get_file_info(str(self.path / name)).type != FileType.NotFound

    def read(self, path: str) -> bytes:
        with self._fs.open_input_stream(path) as stream:
            return stream.read()

    def move_aside(self, names: list[str] | None = None) -> str:
        """Moves it, or some of what is in it, to NAME.old-K beside it; returns where that is."""
        k = 1
        while self._fs.get_file_info(str(self._root / f"{self._name}.old-{k}")).type != FileType.NotFound:
            k += 1
        aside = self._root / f"{self._name}.old-{k}"
        if names is None:
            self._fs.move(str(self.path), str(aside))
        else:
            self._fs.create_dir(str(aside))
            for name in names:
                if self.has(name):
                    self._fs.move(str(self.path / name), str(aside / name))
        return str(aside)

    def numbers(self) -> list[int]:
        """Of the folders NAME_1, NAME_2, ... beside it."""
        found = self._fs.get_file_info(FileSelector(str(self._root), allow_not_found=True))
        matches = [re.fullmatch(re.escape(self._name) + r"_(\d+)", info.base_name) for info in found]
        return [int(match[1]) for match in matches if match]

    def reopen(self, state: str, trials: set[str]) -> None:
        """Lets Tune take finished trials of a state for unfinished ones."""
        saved = json.loads(self.read(state))
        for entry in saved["trial_data"]:
            trial = json.loads(entry[0])
            if trial["trial_id"] in trials:
                entry[0] = json.dumps({**trial, "status": Trial.PENDING})
        self._write(PurePosixPath(state).name, json.dumps(saved).encode())

    def trim(self, trial: str, last: Mapping[str, Any]) -> None:
        """Cuts a trial's results off after a given one; a line or event that was not written to its end goes too."""
        iteration = last["training_iteration"]
        if self.has(f"{trial}/result.json"):
            kept = []
            for line in self.read(str(self.path / trial / "result.json")).decode().splitlines(keepends=True):
                try:
                    if json.loads(line)["training_iteration"] > iteration:
                        break
                except json.JSONDecodeError:
                    break
                kept.append(line)
            self._write(f"{trial}/result.json", "".join(kept).encode())
        if self.has(f"{trial}/progress.csv"):
            text = self.read(str(self.path / trial / "progress.csv")).decode()
            header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [["training_iteration"]]
            column = header.index("training_iteration")
            kept_rows = [row for row in rows if len(row) == len(header) and int(row[column]) <= iteration]
            out = io.StringIO(newline="")
            csv.writer(out).writerows([header, *kept_rows])
            self._write(f"{trial}/progress.csv", out.getvalue().encode())
        for path in self.files(f"{trial}/events.out.tfevents.*"):
            step = last.get("timesteps_total") or iteration  # as Tune's logger for TensorBoard has it
            self._write(f"{trial}/{PurePosixPath(path).name}", _events_until(self.read(path), step))

    def _write(self, name: str, data: bytes) -> None:
        with self._fs.open_output_stream(str(self.path / name)) as stream:
            stream.write(data)


def _events_until(data: bytes, step: int) -> bytes:
    """The records of a TensorBoard file (length [8 bytes], its checksum [4], event, checksum [4]) up to a step."""
    kept, start = [], 0
    while (end := start + 16 + int.from_bytes(data[start : start + 8], "little")) <= len(data):
        if Event.FromString(data[start + 12 : end - 4]).step <= step:
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def check_checkpoint(folder: Path) -> None:
    """Reads a checkpoint's files.

    Raises:
        ValueError: the folder is no checkpoint, or a file is empty or cut off.
    """
    if not (folder / "rllib_checkpoint.json").is_file():
        if folder.is_dir():
            why, where = "is not a checkpoint: rllib_checkpoint.json is missing there", "below"
            files = folder.rglob("checkpoint_*/rllib_checkpoint.json")
        else:
            why, where = "is a file, not a folder" if folder.exists() else "does not exist", "beside"
            files = folder.parent.glob("checkpoint_*/rllib_checkpoint.json")
        found = [path.parent for path in files]
        hint = f" The newest {where} it is {max(found, key=lambda path: path.stat().st_mtime)}." if found else ""
        raise ValueError(f"{folder} {why}.{hint}")
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(UNFINISHED) for part in path.relative_to(folder).parts):
            continue  # a process was killed while it wrote another checkpoint into the folder
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix in (".pkl", ".pickle"):
                with path.open("rb") as file:
                    cloudpickle.load(file)
        except Exception as error:  # whatever unpickling a cut-off file raises
            what = "it is empty" if not path.stat().st_size else f"{type(error).__name__}: {error}"
            where = f" {OWN_FILES}" if isinstance(error, ModuleNotFoundError) else ""
            raise ValueError(f"the checkpoint's file {path} cannot be read ({what}).{where}") from error
