"""`rllib train --resume`: where an experiment was left, and its files made ready to go on from there."""

from __future__ import annotations

import contextlib
import copy
import csv
import fnmatch
import io
import json
from collections.abc import Mapping
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
from tensorboardX.proto.event_pb2 import Event

from rllib_ddn.cli.options import fail
from rllib_ddn.names import OWN_FILES
from rllib_ddn.rllib.keys import same
from rllib_ddn.rllib.value_decomposition import UNFINISHED


class Resumed(Callback):
    """Corrects what Tune does to resumed trials: of several experiments it puts all trials into the first
    one's folder, and it stops them where the file said when they began."""

    def __init__(self, homes: dict[str, str], experiments: dict[str, dict[str, Any]]) -> None:
        """Args: homes: of trial ids, the experiments' names."""
        self._homes, self._experiments = homes, experiments

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._homes and self._homes.keys().isdisjoint(trial.trial_id for trial in trials):
            raise OSError("Ray Tune cannot resume the experiment; -v shows why, and without --resume it starts anew")
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
    trials = _resumable(first)
    if not trials:
        old = [folder for folder in folders.values() if folder.files("*/result.json")]
        for folder in old:
            typer.echo(f"rllib: no checkpoint: starting over; the old results are now in {folder.move_aside()}")
        if not old:
            typer.echo(f"rllib: no earlier training to resume in {first.path}: starting anew.")
        return None
    homes = {trial.trial_id: trial.storage.experiment_dir_name for trial in trials}
    for trial in trials:
        if spec := experiments.get(homes[trial.trial_id]):
            algo = get_trainable_cls(trial.trainable_name)
            defaults = algo.get_default_config().to_dict() if issubclass(algo, Algorithm) else {}
            begun = {"run": trial.trainable_name} | ({} if may_mutate else _merged(defaults, trial.config))
            given = {"run": spec["run"]} | ({} if may_mutate else _merged(defaults, spec["config"]))
            for key in {**given, **begun}:
                if key != "log_level" and not _may_be(begun.get(key), given.get(key)):
                    fail(
                        f"{first.path} was begun with {key} = {begun.get(key)!r}, and --resume goes on with that, not with "
                        f"{given.get(key)!r}: name the new experiment differently (-n, or its name in the file), or leave "
                        "--resume out."
                    )
    left = [trial for trial in trials if trial.status != Trial.TERMINATED]
    if not left:
        typer.echo("rllib: finished already. To train on, give a checkpoint to --restore, another --stop, and another name.")
    for trial in left:
        home = homes[trial.trial_id]
        if home not in folders:
            fail(f"{first.path} is of other experiments, {home!r} among them: leave --resume out.")
        newest = trial.run_metadata.checkpoint_manager.latest_checkpoint_result
        if newest:
            if folders[home].is_local:
                _check_newest(Path(folders[home].path, trial.relative_logdir, Path(newest.checkpoint.path).name))
            folders[home].trim(trial.relative_logdir, newest.metrics)
        elif folders[home].has(f"{trial.relative_logdir}/result.json"):
            aside = folders[home].move_aside([trial.relative_logdir])
            typer.echo(f"rllib: no checkpoint of {trial}: starting over; the old results are now in {aside}")
    return Resumed(homes, experiments)


def _merged(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What a config comes to: of a dict among the defaults, a key that is not given stays as it is."""
    nested = {k: _merged(defaults[k], v) for k, v in given.items() if isinstance(v, dict) and isinstance(defaults.get(k), dict)}
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
        fail(f"{error} To start from an earlier checkpoint, name it by --restore and leave --resume out.")


def _resumable(folder: Folder) -> list[Trial]:
    """Tune's trials, of the newest run in a folder that has a finished trial or a checkpoint; [] if none has.

    What newer runs left of Tune's state is moved beside, as Tune takes the newest.
    """
    newer: list[str] = []
    unread: list[str] = []
    for state in sorted(folder.files("experiment_state-*.json"), reverse=True):
        search = state.replace("experiment_state", "basic-variant-state")
        try:
            trials = []
            for trial_state, metadata in json.loads(folder.read(state))["trial_data"]:
                trials.append(Trial.from_json_state(trial_state, stub=True))
                trials[-1].restore_run_metadata(metadata)
            cloudpickle.loads(folder.read(search))
        except Exception as error:  # whatever unpickling a cut-off file raises
            unread.append(f"{state} or {PurePosixPath(search).name} cannot be read ({type(error).__name__})")
            trials = []
        if any(t.status == Trial.TERMINATED or t.run_metadata.checkpoint_manager.latest_checkpoint_result for t in trials):
            if newer:
                folder.move_aside(newer)
            for line in unread:
                typer.echo(f"rllib: {line}; an earlier run is resumed.")
            return trials
        newer += [PurePosixPath(state).name, PurePosixPath(search).name]
    if unread:
        fail(f"{unread[0]}. Start from a checkpoint, if there is one, by --restore, and leave --resume out.")
    return []


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
        names = {str(PurePosixPath(info.path).relative_to(self.path)): info.path for info in found if info.type == FileType.File}
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
