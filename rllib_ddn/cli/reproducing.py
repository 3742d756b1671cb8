"""What `rllib reproduce` does: it runs the grid of a table and writes it, one of the paper's in the paper's layout.

Trials run on Ray Tune, by `rllib train file`. Run again, it starts no finished trial anew, whichever table it was run
for, and continues interrupted ones from their checkpoints. Trials whose folders are elsewhere or gone are known from
the points that were written of them.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import typer
import yaml
from ray.tune.registry import get_trainable_cls

import rllib_ddn  # noqa: F401  (registers the algorithms)
from rllib_ddn.cli.curves import (
    area,
    curves,
    default_window,
    draw,
    evaluations,
    figure_of,
    final,
    games,
    iqm,
    result_folders,
    stratified,
    transfer,
)
from rllib_ddn.cli.examples import FOLDER
from rllib_ddn.cli.resume import Folder, check_checkpoint
from rllib_ddn.cli.tables import TABLES, Table

SCALED = ("leader_timesteps", "mixture_timesteps")  # stages whose length follows the number of steps
COLUMNS = ["row", "seed", "network", "env steps", "hours", "metric", "value"]
DIGITS = "%.6g"  # of a value in the CSV


@dataclass
class Planned:
    """One row of the grid with one seed, to be trained for so many env steps."""

    row: str
    seed: int
    run: str
    config: dict[str, Any]
    steps: int

    def matches(self, folder: Path) -> bool:
        """Whether a trial's folder holds this trial: the same algorithm and, but for defaults, the same config."""
        if not folder.name.startswith(f"{self.run}_"):
            return False
        defaults = get_trainable_cls(self.run).get_default_config().to_dict()
        essence = lambda config: {k: v for k, v in config.items() if v != defaults.get(k)}  # noqa: E731
        theirs = json.loads((folder / "params.json").read_text())
        return essence(theirs) == essence(json.loads(json.dumps(self.config)))

    def folders(self, storage: Path) -> list[Path]:
        """Of this trial and its continuations, the oldest first."""
        found = [
            folder for folder in result_folders(storage) if (folder / "params.json").is_file() and self.matches(folder)
        ]
        return sorted(found, key=lambda folder: int(pd.read_csv(folder / "progress.csv", nrows=1)["timestamp"].iloc[0]))


def trials(
    table: str,
    env: str | None,
    env_config: dict[str, Any] | None,
    seeds: int | None,
    steps: int | None,
    overrides: dict[str, Any],
) -> list[Planned]:
    """The grid of a table with these options; None stands for what the grid's file says. Seeds count from its first."""
    grid = yaml.safe_load((FOLDER / TABLES[table].folder / f"{table}.yaml").read_text())
    found = []
    for name, spec in grid.items():
        shared = {**spec["config"], "env": env or spec["env"], **overrides}
        if env_config is not None or shared["env"] != spec["env"]:
            shared["env_config"] = overrides.get("env_config", {}) if env_config is None else env_config
        its_steps, its_seeds = spec["stop"]["timesteps_total"], spec["config"]["seed"]["grid_search"]
        for key in SCALED:
            if key in shared and steps:
                shared[key] = max(1, round(shared[key] * steps / its_steps))
        row = name.removeprefix(f"{table}-")
        chosen = range(its_seeds[0], its_seeds[0] + seeds) if seeds else its_seeds
        found += [Planned(row, seed, spec["run"], {**shared, "seed": seed}, steps or its_steps) for seed in chosen]
    return found


def _reached(folder: Path) -> int:
    """The last step that a trial's folder knows of."""
    return int(pd.read_csv(folder / "progress.csv", usecols=["timesteps_total"])["timesteps_total"].max())


def read_points(file: Path | None) -> pd.DataFrame:
    """The points that an earlier run wrote, NAME.csv; of no file, none.

    Raises:
        ValueError: the file cannot be read, or is no such table.
    """
    if file is None:
        return pd.DataFrame(columns=COLUMNS)
    try:
        points = pd.read_csv(file, keep_default_na=False, na_values={"hours": ""})
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--points {file} cannot be read ({error}). It takes the CSV that an earlier `rllib reproduce` wrote."
        ) from None
    if list(points.columns) != COLUMNS:
        raise ValueError(
            f"--points {file} is not the CSV of an earlier `rllib reproduce`: that has the columns {', '.join(COLUMNS)}."
        )
    return points


def _points_of(trial: Planned, points: pd.DataFrame) -> pd.DataFrame:
    return points[(points["row"] == trial.row) & (points["seed"] == trial.seed)]


def pending(found: list[Planned], storage: Path, points: pd.DataFrame) -> Iterator[tuple[Planned, Path | None]]:
    """The trials that are not finished, with the latest checkpoint of each.

    Args:
        points: of trials without folders.
    """
    for trial in found:
        folders = trial.folders(storage)
        reached = (
            _reached(folders[-1]) if folders else _points_of(trial, points)["env steps"].max()
        )  # NaN where there are none
        if reached >= trial.steps:
            continue
        checkpoints = [p for folder in folders for p in sorted(folder.glob("checkpoint_[0-9]*"))]
        yield trial, next(filter(_is_whole, reversed(checkpoints)), None)


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be read: one that was being copied when the process was killed cannot."""
    try:
        check_checkpoint(checkpoint)
    except ValueError:
        return False
    return True


def run(found: list[Planned], storage: Path, table: str, cpus: int | None, points: pd.DataFrame) -> int:
    """Runs what is pending with ``rllib train file``; returns its exit status."""
    experiments = {}
    for trial, checkpoint in pending(found, storage, points):
        spec: dict[str, Any] = {"run": trial.run, "stop": {"timesteps_total": trial.steps}, "config": trial.config}
        name = f"{table}-{trial.row}-seed{trial.seed}"
        if (storage / name).exists():
            name += f"_{max(Folder(str(storage), name).numbers(), default=1) + 1}"
        spec["checkpoint_config"] = {"checkpoint_frequency": 5, "checkpoint_at_end": True, "num_to_keep": 1}
        if checkpoint:
            spec["restore"] = str(checkpoint)
        experiments[name] = spec
    typer.echo(f"{table}: {len(found) - len(experiments)} of {len(found)} trials are finished.")
    if not experiments:
        return 0
    storage.mkdir(parents=True, exist_ok=True)
    grid = storage / f"{table}.yaml"
    grid.write_text(yaml.safe_dump(experiments, sort_keys=False))
    command = [sys.executable, "-m", "rllib_ddn.cli", "train", "file", str(grid), "--storage-path", str(storage)]
    with subprocess.Popen([*command, *(["--ray-num-cpus", str(cpus)] if cpus else [])]) as child:
        # The child saves its trials when it is interrupted; a terminal sends it Ctrl-C by itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        return child.wait()


def load(found: list[Planned], storage: Path, points: pd.DataFrame) -> pd.DataFrame:
    """All evaluations, in the columns of :mod:`rllib_ddn.cli.curves`: the win rate where the env knows it, else the mean return.

    Args:
        points: of trials without folders.

    Raises:
        ValueError: there are none.
    """
    frames = []
    for trial in found:
        if folders := trial.folders(storage):
            frames.append(evaluations(folders).assign(row=trial.row, seed=trial.seed)[COLUMNS])
        else:
            frames.append(_points_of(trial, points))
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        raise ValueError(f"there are no evaluations under {storage}.")
    every = pd.concat(frames, ignore_index=True)
    # As the CSV has them, so that the table that is made of it is the same to the last digit.
    return every.assign(value=[float(DIGITS % value) for value in every["value"]])


def within(every: pd.DataFrame, steps: int) -> pd.DataFrame:
    """The evaluations of trainings of so many steps: what continued them does not count, but the one at their end does, however
    far beyond the steps an iteration has gone."""
    beyond = every[every["env steps"] >= steps]
    last = beyond.groupby(["row", "seed", "network"])["env steps"].transform("min").reindex(every.index)
    return every[(every["env steps"] <= 1.1 * steps) | (every["env steps"] == last)]


def markdown(name: str, every: pd.DataFrame, caption: str, steps: int, where: str) -> str:
    """The table; one of the paper's with this run's figures before the paper's."""
    table = TABLES[name]
    notes = [caption] + ([table.note] if table.note else [])
    if table.folder == "comparisons":
        parts = [f"**{table.title}.**", *notes, _by_quarters(table, every, steps), *_pairs(table, every, steps)]
        return "\n\n".join(parts) + "\n"
    header = [
        *table.header,
        f"{where}: leader or host",
        f"{where}: follower",
        "follower / leader",
        *(f"paper: {m}" for m in table.paper),
    ]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for k, (row, label) in enumerate(table.labels.items()):
        host, leaders, followers = (final(every, row, network, 0.9 * steps) for network in ("", "leader", "follower"))
        networks = set(every[every["row"] == row]["network"])
        missing = f"no evaluation after {0.9 * steps:,.0f} steps" if networks else "not run"
        ratio = ""
        if len(leaders) and len(followers):
            positive = iqm(leaders) > 0 and iqm(followers) >= 0
            ratio = f"{iqm(followers) / iqm(leaders):.0%}" if positive else "not positive"
        cells = [
            *label,
            figure_of(host if len(host) else leaders) or missing,
            figure_of(followers) or ("no follower" if networks == {""} else missing),
            ratio or "-",
            *(figures[k] for figures in table.paper.values()),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n\n".join([f"**{name[:-1].capitalize()} {name[-1]}. {table.title}.**", *notes, "\n".join(lines)]) + "\n"


def _by_quarters(table: Table, every: pd.DataFrame, steps: int) -> str:
    """A line for each network of each row: the evaluations from a tenth of the steps before each quarter's end to a hundredth
    after it; of the last, all that follow."""
    quarters = [round(steps * k / 4) for k in (1, 2, 3, 4)]
    ends = [f"{quarter / 1000:,.0f}k" for quarter in quarters]
    header = [*table.header, "network", *ends, "over training", "single seeds at the end"]
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for row, label in table.labels.items():
        for network in ("", "leader", "follower"):
            values = [final(every, row, network, end - 0.1 * steps, end + 0.01 * steps) for end in quarters[:3]]
            values.append(final(every, row, network, 0.9 * steps))
            if any(map(len, values)):
                figures = map(figure_of, [*values, area(every, row, network)])
                cells = [*label, network, *figures, ", ".join(f"{value:.2f}" for value in values[-1])]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _pairs(table: Table, every: pd.DataFrame, steps: int) -> list[str]:
    """Of each DDN: how steadily its follower has what the leader has, and both beside the base algorithm, paired by seed."""
    lines: list[str] = []
    gains: dict[str, list[Any]] = {"leader": [], "follower": []}
    for row, label in table.labels.items():
        if final(every, row, "follower", 0).empty:
            continue
        ratios = transfer(every, row)
        steadiness = [f"{ratios.mean():.3f}", f"{(ratios >= 0.97).mean():.0%} of {len(ratios)}", f"{ratios.min():.2f}"]
        cells = [*label, *(steadiness if len(ratios) else ["-", "0 evaluations", "-"])]
        base = table.bases.get(row, "")
        for network, gained in gains.items() if table.bases else ():
            end = final(every, row, network, 0.9 * steps) - final(every, base, "", 0.9 * steps)
            mean = (area(every, row, network) - area(every, base, "")).dropna().to_numpy()
            gained.append(mean)
            cells += [figure_of(mean), figure_of(end.dropna())]
        lines.append(f"| {' | '.join(cells)} |")
    if not lines:
        return []
    beside = [
        f"{network} - base, {what}" for network in gains for what in ("over training", "at the end") if table.bases
    ]
    header = [*table.header, "follower / leader", "at least 0.97", "lowest", *beside]
    text = [
        "Follower / leader: mean over the evaluations in which the leader wins 0.7 or more (of returns: has 0.7 of the best)."
        + (" Differences to the base algorithm are paired by seed." if table.bases else ""),
        "\n".join([f"| {' | '.join(header)} |", "|" + "---|" * len(header), *lines]),
    ]
    if len(lines) > 1 and table.bases:
        told = ", ".join(f"{network} {stratified(gained)}" for network, gained in gains.items())
        text.append(f"Difference over training, all rows, with a stratified bootstrap interval: {told}.")
    return text


def reproduce(
    name: str,
    *,
    env: str | None,
    env_config: dict[str, Any] | None,
    config: dict[str, Any],
    seeds: int | None,
    steps: int | None,
    rows: list[str],
    storage: Path,
    out: Path,
    cpus: int | None,
    no_run: bool,
    points: Path | None,
) -> int:
    """Runs a table's trials and writes NAME.md, NAME.csv and NAME.png; the arguments are the command's options.

    Returns:
        The exit status of the training.

    Raises:
        ValueError: an unknown table or row, points that are none or do not belong to these options, or there are no
            evaluations, or some of win rates and others of returns.
    """
    if name not in TABLES:
        raise ValueError(f"there is no table {name!r}; there are {', '.join(TABLES)}.")
    table = TABLES[name]
    unknown = set(rows) - set(table.labels)
    if unknown:
        raise ValueError(f"{name} has no row {min(unknown)!r}; it has {', '.join(table.labels)}.")
    storage = storage.expanduser().absolute()
    grid = trials(name, env=env, env_config=env_config, seeds=seeds, steps=steps, overrides=config)
    found = [trial for trial in grid if not rows or trial.row in rows]
    if points and (env, env_config, config, steps) != (None, None, {}, None):
        raise ValueError(
            "--points are of the grid as it is: leave --env, --env-config, --config and --steps out, or --points."
        )
    if points and (rows or seeds) and points.resolve() == (out / f"{name}.csv").resolve():
        raise ValueError(f"{points} would keep the rows and seeds alone that are asked for: choose another --out.")
    earlier = read_points(points)
    status = 0 if no_run else run(found, storage, name, cpus, earlier)

    if status and earlier.empty and not any(trial.folders(storage) for trial in found):
        return status  # the training has told why
    every = load(found, storage, earlier)
    if len(metrics := every["metric"].unique()) > 1:
        raise ValueError(
            f"some evaluations tell the {metrics[0]} and others the {metrics[1]}: they are not of one env."
        )
    steps = max(trial.steps for trial in found)
    every = within(every, steps)
    found = [
        trial for trial in found if (every["row"] == trial.row).any()
    ]  # rows of which nothing was run are not there
    left = [trial for trial, _ in pending(found, storage, earlier)]
    played_in = {trial.config["env"]: None for trial in found}
    settings = {json.dumps(trial.config.get("env_config", {})): None for trial in found}
    where = " ".join([*played_in, *settings]) if len(settings) == 1 else ", ".join(played_in)
    numbers = sorted(set(every["seed"]))
    caption = f"{where}, {steps:,} env steps, seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}."
    if config:
        caption += f" With {json.dumps(config)}."
    if table.folder == "paper" and list(played_in) != ["smac"]:
        caption += " This is not SMAC: compare the rows, not the figures, with the paper's."
    if left:
        caption += " Not finished: " + ", ".join(f"{trial.row} seed {trial.seed}" for trial in left) + "."
    out.mkdir(parents=True, exist_ok=True)
    text = markdown(name, every, caption, steps, ", ".join(played_in))
    (out / f"{name}.md").write_text(text)
    every.to_csv(out / f"{name}.csv", index=False, float_format=DIGITS)
    window = default_window(steps)
    shown = [
        replace(curve, row=table.legend(curve.row), panel=table.panel(curve.row)) for curve in curves(every, window)
    ]
    played = games(get_trainable_cls(t.run).get_default_config().to_dict() | t.config for t in found)
    draw(shown, metrics[0], played, window, f"{table.title}\n{where}", out / f"{name}.png")
    typer.echo(text)
    return status
