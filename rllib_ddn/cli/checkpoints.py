"""Which checkpoint a command takes: the one that is named, or the best or latest one of a trial or an experiment."""

from __future__ import annotations

import json
import math
import pickle
import re
from pathlib import Path

import typer
from ray import cloudpickle

from rllib_ddn.cli.resume import check_checkpoint
from rllib_ddn.rllib.score import BEST

MARK = "rllib_checkpoint.json"  # the file by which a checkpoint is known


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
        if len(trials) > 1 and len({has_win_rates(trial) for score, _, trial in found if not math.isnan(score)}) > 1:
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


def checkpoints_of(trial: Path) -> list[Path]:
    """The checkpoints in a trial's folder, the oldest first."""
    return sorted(path.parent for path in trial.glob(f"checkpoint_*/{MARK}"))


def best_of(trial: Path) -> tuple[float, Path]:
    """Score and folder of a trial's best checkpoint; NaN and the latest one where none is scored."""
    *_, latest = checkpoints = checkpoints_of(trial)
    if (kept := latest / BEST / "score.json").is_file():
        return json.loads(kept.read_text())["score"], kept.parent
    scores = scores_of(trial)  # of RLlib's own algorithms, whose best checkpoints Tune keeps
    scored = [(scores.get(iteration_of(path), math.nan), path) for path in checkpoints] if scores else []
    return max(
        (each for each in scored if not math.isnan(each[0])), default=(math.nan, latest), key=lambda each: each[0]
    )


def has_win_rates(trial: Path) -> bool:
    """Whether a trial's scores are win rates: its results know them."""
    results = trial / "result.json"
    return results.is_file() and re.search(r'"win_rate": \d', results.read_text()) is not None


def scores_of(trial: Path) -> dict[int, float]:
    """The finite scores in a trial's results, by iteration."""
    found = {}
    results = trial / "result.json"
    for line in results.read_text().splitlines() if results.is_file() else ():
        try:
            result = json.loads(line)
        except json.JSONDecodeError:  # a line that is being written
            break
        found[result["training_iteration"]] = result.get("score", math.nan)
    return {iteration: score for iteration, score in found.items() if math.isfinite(score)}


def iteration_of(checkpoint: Path) -> int:
    """The iteration that a checkpoint of RLlib's own algorithms is of; -1 where it does not say."""
    try:
        return cloudpickle.loads((checkpoint / "algorithm_state.pkl").read_bytes()).get("training_iteration", -1)
    except (OSError, EOFError, ImportError, pickle.UnpicklingError):
        return -1
