"""What `rllib plot` does: learning curves of what Tune left in folders, as a figure, a table and a CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.tune import TuneError
from ray.tune.experiment import Trial
from ray.tune.registry import get_trainable_cls

from rllib_ddn.cli.curves import (
    OVER_SEEDS,
    curves,
    default_window,
    draw,
    evaluations,
    figure_of,
    final,
    games,
    result_folders,
)
from rllib_ddn.cli.experiments import OURS

NAMES = {"CWQMIX": "CW-QMIX", "OWQMIX": "OW-QMIX", "predator_prey": "Predator-Prey", "smac": "SMAC", "smax": "SMAX"}


@dataclass
class Trained:
    """A trial that Tune left, with those that went on from its checkpoints.

    Attributes:
        given: the name that the user gave to all trials of its folder, if any.
        run: the trainable's name.
        config: as Tune wrote it, with the algorithm's defaults; nested keys are joined by dots.
        folders: the oldest first.
    """

    given: str | None
    run: str
    config: dict[str, Any]
    folders: list[Path]


def plot(
    folders: Sequence[str],
    *,
    out: Path,
    csv: Path | None,
    metric: str | None,
    by: str,
    window: int | None,
    title: str | None,
    table: bool,
    first: int | None,
    last: int | None,
) -> str:
    """Draws what the folders hold; the arguments are the command's options.

    Returns:
        What to print.

    Raises:
        ValueError: there is nothing to draw.
    """
    trials = find(folders)
    games_of = by_env(trials)
    named = [
        (trial, env, row) for env, group in games_of.items() for trial, row in zip(group, name_rows(group), strict=True)
    ]
    frames: list[pd.DataFrame] = []
    taken: dict[tuple[str, str], set[int]] = {}
    early = ended_early([trial.folders[-1] for trial in trials])
    for trial, env, row in named:
        found = evaluations(trial.folders, metric)
        if found.empty:
            raise ValueError(
                f"{trial.folders[0]} has no evaluation of {metric or 'the episodes'}: see the columns of its progress.csv."
            )
        seed, others = trial.config.get("seed"), taken.setdefault((env, row), set())
        if seed is None or seed in others:
            seed = next(k for k in range(1, 1 + len(trials)) if k not in others)
        others.add(seed)
        frames.append(found.assign(env=env, row=row, seed=seed, early=trial.folders[-1] in early))
    every = pd.concat(frames, ignore_index=True)
    every = every[["env", "row", "seed", "network", "env steps", "hours", "metric", "value", "early"]]
    metrics = every["metric"].unique()
    if len(metrics) > 1:
        raise ValueError(f"the trials have different results, {' and '.join(metrics)}: choose one by --metric.")
    window = window or default_window(every.groupby("env")["env steps"].max().min())
    several = len(games_of) > 1
    title = title if title is not None else "" if several else next(iter(games_of))
    shown = []
    for env, group in every.groupby("env", sort=False):
        shown += [replace(curve, panel=str(env) if several else "") for curve in curves(group, window, by)]
    draw(shown, metrics[0], games(t.config for t in trials), window, title, out, by, one_scale=False)
    if csv:
        every.drop(columns="early").to_csv(csv, index=False, float_format="%.6g")
    told = [f"{out}: {metrics[0].replace('_', ' ')}, {len(trials)} trial{'s' * (len(trials) > 1)}."]
    for env, group in every.groupby("env", sort=False) if table else ():
        steps = group["env steps"].max()
        start, end = round(0.9 * steps) if first is None else first, steps if last is None else last
        told.append(f"{env}: " * several + markdown(group, metrics[0], start, end))
    return "\n\n".join(told)


def find(folders: Sequence[str]) -> list[Trained]:
    """The trials in folders, which may be given as NAME=FOLDER.

    Raises:
        ValueError: a folder holds none.
    """
    found: list[Trained] = []
    for text in folders:
        given, _, path = text.partition("=") if "=" in text and not Path(text).expanduser().exists() else ("", "", text)
        results = result_folders(Path(path).expanduser())
        if not results:
            raise ValueError(
                f"there is no progress.csv with results in {path}: name a folder of `rllib train` or of Ray Tune."
            )
        continued = {folder: _continued_at(folder) for folder in results}
        for folder in sorted(results, key=lambda f: (continued[f], f)):
            run, config = _run(folder), json.loads((folder / "params.json").read_text())
            trial = Trained(given or None, run, {**_defaults(run), **_flat(config)}, [folder])
            before = [t for t in found if (t.given, t.run, t.config) == (trial.given, trial.run, trial.config)]
            if before and continued[folder]:
                before[0].folders.append(folder)
            else:
                found.append(trial)
    return found


def _continued_at(folder: Path) -> int:
    """The first iteration of a trial that continues from a checkpoint; 0 of one from scratch."""
    first = int(pd.read_csv(folder / "progress.csv", usecols=["training_iteration"], nrows=1).iloc[0, 0])
    return first if first > 1 else 0


def _run(folder: Path) -> str:
    """The trainable's name, with which Tune begins a trial's folder."""
    known = [name for name in (*OURS, *ALGORITHMS) if folder.name.startswith(f"{name}_")]
    return max(known, key=len) if known else folder.name.partition("_")[0]


def _defaults(run: str) -> dict[str, Any]:
    try:
        return _flat(json.loads(json.dumps(get_trainable_cls(run).get_default_config().to_dict(), default=str)))
    except (AttributeError, ValueError, TuneError):  # a trainable that is no algorithm, or of a program of the user's
        return {}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def name_rows(trials: Sequence[Trained]) -> list[str]:
    """What each trial is called: its algorithm and, where trials of it or their envs differ, in what; not in the seed."""
    env = _different([t.config for t in trials], lambda key: key == "env" or key.startswith("env_config."))
    names = []
    for trial in trials:
        if trial.given:
            names.append(trial.given)
            continue
        peers = [t.config for t in trials if t.run == trial.run and not t.given]
        keys = dict.fromkeys(
            [*env, *_different(peers, lambda key: key != "seed" and not key.startswith("env_config."))]
        )
        told = ", ".join(
            f"{key.rpartition('.')[2]} {_in_label(trial.config[key], [t.config.get(key) for t in trials])}"
            for key in keys
            if key in trial.config
        )
        names.append(NAMES.get(trial.run, trial.run) + (f" ({told})" if told else ""))
    return names


def _different(configs: Sequence[dict[str, Any]], wanted: Any) -> list[str]:
    """The keys, of those wanted, that have not the same value in all configs."""
    keys = dict.fromkeys(key for config in configs for key in config if wanted(key))
    return [key for key in keys if len({json.dumps(config.get(key)) for config in configs}) > 1]


def _in_label(value: Any, among: Sequence[Any]) -> str:
    """A value with three significant digits (1e-3, 4.87e-4), or in full where another of ``among`` would look the same."""
    same = {json.dumps(other) for other in among if _rounded(other) == _rounded(value)}
    return str(value) if len(same) > 1 else _rounded(value)


def _rounded(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_rounded, value))}]"
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    if value == 0 or 0.01 <= abs(value) < 10_000:
        return min(str(value), f"{value:.3g}", key=len) if len(str(value)) > 4 else str(value)
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def ended_early(folders: Sequence[Path]) -> set[Path]:
    """The trials' folders whose trials Tune's scheduler ended, as ASHA does: Tune keeps one as terminated, its last result
    fulfils no stopping criterion, and another trial of its experiment is more than an iteration further."""
    early = set()
    for experiment in {folder.parent for folder in folders}:
        stops = _stops(experiment)
        lasts = {f: pd.read_csv(f / "progress.csv").iloc[-1] for f in result_folders(experiment)} if stops else {}
        furthest = max((last["training_iteration"] for last in lasts.values()), default=0)
        for folder in lasts.keys() & set(folders):
            last = lasts[folder]
            stop = next((stop for trial, stop in stops.items() if f"_{trial}_" in folder.name), {})
            met = any(last.get(key, math.nan) >= value for key, value in stop.items())
            if stop and not met and last["training_iteration"] + 1 < furthest:
                early.add(folder)
    return early


def _stops(experiment: Path) -> dict[str, dict[str, float]]:
    """The stopping criteria of an experiment's terminated trials, by id; none where Tune's state cannot be read."""
    states = sorted(experiment.glob("experiment_state-*.json"))
    try:
        kept = [json.loads(text) for text, _ in json.loads(states[-1].read_text())["trial_data"]] if states else []
    except ValueError:  # cut off
        return {}
    return {
        t["trial_id"]: t["stopping_criterion"]
        for t in kept
        if t["status"] == Trial.TERMINATED and t["stopping_criterion"]
    }


def by_env(trials: Sequence[Trained]) -> dict[str, list[Trained]]:
    """The trials of each env or map, by its name; other keys of an ``env_config`` are told in the names of rows."""
    groups: dict[Any, list[Trained]] = {}
    for trial in trials:
        key = tuple(trial.config.get(name) for name in ("env", "env_config.env", "env_config.map_name"))
        groups.setdefault(key, []).append(trial)
    return {name_env(group): group for group in groups.values()}


def name_env(trials: Sequence[Trained]) -> str:
    """The env of trials that have the same, and what is common of its config."""
    first = trials[0].config
    name = str(first.get("env_config.env", first.get("env")))
    settings = [key for key in first if key.startswith("env_config.") and key != "env_config.env"]
    same = [key for key in settings if all(t.config.get(key) == first[key] for t in trials)]
    told = ", ".join(
        str(first[key]) if key == "env_config.map_name" else f"{key.removeprefix('env_config.')} {first[key]}"
        for key in same
    )
    return f"{NAMES.get(name, name)}{': ' * bool(told)}{told}"


def markdown(every: pd.DataFrame, metric: str, first: int, last: int) -> str:
    """A table: of each row and network the evaluations between two env steps, over seeds and of each seed."""
    rows = every[["row", "network"]].drop_duplicates().astype(str).itertuples(index=False)
    seeds = {f"{row} {network}".rstrip(): final(every, row, network, first, last) for row, network in rows}
    over = f"; {OVER_SEEDS}" if any(len(values) > 1 for values in seeds.values()) else ""
    lines = [f"{metric.replace('_', ' ')}, mean of the evaluations from {first:,} to {last:,} env steps{over}", ""]
    lines += ["| | over seeds | single seeds |", "|---|---|---|"]
    lines += [
        f"| {name} | {figure_of(values)} | {', '.join(f'{v:.2f}' for v in values)} |" for name, values in seeds.items()
    ]
    return "\n".join(lines)
