"""Which checkpoint a command takes: the one that is named, or the best or latest one of a trial or an experiment."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import typer
from ray import cloudpickle
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.checkpoints import get_checkpoint_info

from rllib_ddn.names import OWN_FILES
from rllib_ddn.rllib.checkpoint import UNFINISHED
from rllib_ddn.rllib.score import BEST

MARK = "rllib_checkpoint.json"  # the file that makes a folder a checkpoint


def find(folder: Path, which: str | None) -> Path:
    """The checkpoint that a user means, which is printed where it is not the folder itself.

    Args:
        folder: a checkpoint, a trial's folder, or an experiment's, of which the best trial is taken.
        which: "best" or "latest"; None: a checkpoint as it is, of other folders the best.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    folder = folder.expanduser().absolute()
    chosen = folder
    if (folder / MARK).is_file():
        if which == "best" and folder.name != BEST:
            chosen = folder / BEST
            if not (chosen / MARK).is_file():
                raise ValueError(f"{folder} has no best checkpoint: there was no evaluation before it.")
    elif trials := [trial for trial in (folder, *sorted(folder.glob("*/"))) if checkpoints_of(trial)]:
        found = [(*best_of(trial), trial) for trial in trials]
        if len(trials) > 1 and len({_has_win_rates(trial) for score, _, trial in found if not math.isnan(score)}) > 1:
            raise ValueError(f"the trials in {folder} are scored by win rates and by returns: name a trial's folder.")
        score, chosen, trial = max(found, key=lambda each: -math.inf if math.isnan(each[0]) else each[0])
        if math.isnan(score) and len(trials) > 1:
            raise ValueError(f"{folder} has {len(trials)} trials, and none has an evaluation: name a trial's folder.")
        if which == "latest":
            chosen = checkpoints_of(trial)[-1]
        known = "latest: it has no evaluation" if math.isnan(score) else f"best: score {score:.4g}"
        typer.echo(f"rllib: {chosen} ({'latest' if which == 'latest' else known})", err=True)
    check_checkpoint(chosen)
    return chosen


def check_checkpoint(folder: Path) -> None:
    """Reads a checkpoint's files.

    Raises:
        ValueError: the folder is no checkpoint, or a file is empty or cut off.
    """
    if not (folder / MARK).is_file():
        if folder.is_dir():
            why, where, files = f"is not a checkpoint: {MARK} is missing there", "below", folder.rglob(f"*_*/{MARK}")
        else:
            why, where = "is a file, not a folder" if folder.exists() else "does not exist", "beside"
            files = folder.parent.glob(f"checkpoint_*/{MARK}")
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
                cloudpickle.loads(path.read_bytes())
        except Exception as error:  # whatever unpickling a cut-off file raises
            what = "it is empty" if not path.stat().st_size else f"{type(error).__name__}: {error}"
            where = f" {OWN_FILES}" if isinstance(error, ModuleNotFoundError) else ""
            raise ValueError(f"the checkpoint's file {path} cannot be read ({what}).{where}") from error


def state_of(checkpoint: Path) -> dict[str, Any] | None:
    """The state of an algorithm of RLlib's old API stack, such as all of this package; None of one of the new stack."""
    info = get_checkpoint_info(str(checkpoint))
    if float(str(info["checkpoint_version"])) >= 2.0:
        return None
    return cloudpickle.loads(Path(info["state_file"]).read_bytes())


def class_and_config(checkpoint: Path) -> tuple[type[Algorithm], Any]:
    """The algorithm's class and config that a checkpoint is of."""
    if (state := state_of(checkpoint)) is not None:
        return state["algorithm_class"], state["algorithm_class"].get_default_config().update_from_dict(state["config"])
    algo = Algorithm.from_checkpoint(str(checkpoint))
    algo.stop()
    return type(algo), algo.config.copy(copy_frozen=False)


def checkpoints_of(trial: Path) -> list[Path]:
    """The checkpoints in a trial's folder, the oldest first."""
    return sorted(path.parent for path in trial.glob(f"checkpoint_*/{MARK}"))


def best_of(trial: Path) -> tuple[float, Path]:
    """Score and folder of a trial's best checkpoint; NaN and the latest one where none is scored."""
    *_, latest = checkpoints = checkpoints_of(trial)
    if (kept := latest / BEST / "score.json").is_file():
        return json.loads(kept.read_text())["score"], kept.parent
    # Of RLlib's own algorithms, whose best checkpoints Tune keeps, the results have the scores.
    scores = {result["training_iteration"]: result.get("score", math.nan) for result in results_of(trial)}
    scored = []
    if any(map(math.isfinite, scores.values())):
        for path in checkpoints:
            try:
                iteration = cloudpickle.loads((path / "algorithm_state.pkl").read_bytes()).get("training_iteration")
            except Exception:  # whatever unpickling a file raises that a kill or a full disk has cut off
                continue
            if math.isfinite(score := scores.get(iteration, math.nan)):
                scored.append((score, path))
    return max(scored, default=(math.nan, latest), key=lambda each: each[0])


def results_of(trial: Path) -> list[dict[str, Any]]:
    """The results in a trial's folder, up to a line that is being written or that a kill has cut off."""
    results: list[dict[str, Any]] = []
    file = trial / "result.json"
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return results


def _has_win_rates(trial: Path) -> bool:
    """Whether a trial's scores are win rates: its results have some."""
    results = trial / "result.json"
    return results.is_file() and re.search(r'"win_rate": \d', results.read_text()) is not None
