"""`rllib plot`: learning curves of trials' folders, as a figure, a table and a CSV."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rllib_ddn.cli.common import Debug, Info, set_up

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"CWQMIX": "CW-QMIX", "OWQMIX": "OW-QMIX", "predator_prey": "Predator-Prey", "smac": "SMAC", "smax": "SMAX"}


class By(StrEnum):
    steps = "steps"
    hours = "hours"


@dataclass
class Trained:
    """A trial that Tune left, with those that continued from its checkpoints.

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
    folders: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER...", help="Folders of trials or experiments; NAME=FOLDER names its curves."),
    ],
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("curves.png"),
    csv: Annotated[Path | None, typer.Option(help="CSV to write, of all evaluations.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="win_rate, episode_return_mean or episode_len_mean; by default the win rate where the env knows it."
        ),
    ] = None,
    by: Annotated[By, typer.Option(help="The x axis: env steps or the hours of training.")] = By.steps,
    window: Annotated[
        int | None, typer.Option(help="Env steps to smooth over; by default a 20th of them.", min=1)
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the figure; by default the env.")] = None,
    table: Annotated[bool, typer.Option("--table", help="Print a table of means, too.")] = False,
    mean_from: Annotated[
        int | None, typer.Option(metavar="STEPS", help="Where the table begins; default: the last tenth.")
    ] = None,
    mean_to: Annotated[int | None, typer.Option(metavar="STEPS", help="Where it ends.")] = None,
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Plots learning curves.

    Algorithms are beside each other, seeds joined.
    """
    set_up(v, vv)
    from rllib_ddn.cli.curves import curves, default_window, draw, episodes_of

    trials = find(folders)
    every = evaluations_of(trials, metric)
    metrics = every["metric"].unique()
    if len(metrics) > 1:
        raise ValueError(f"the trials have different results, {' and '.join(metrics)}: choose one by --metric.")
    by_env = dict(list(every.groupby("env", sort=False)))
    several = len(by_env) > 1
    window = window or default_window(min(group["env steps"].max() for group in by_env.values()))
    if title is None:
        title = "" if several else str(next(iter(by_env)))
    axis = "env steps" if by is By.steps else "hours"
    shown = [
        replace(curve, panel=str(env) if several else "")
        for env, group in by_env.items()
        for curve in curves(group, window, axis)
    ]
    draw(shown, metrics[0], episodes_of(t.config for t in trials), window, title, out, axis, one_scale=False)
    if csv:
        every.to_csv(csv, index=False, float_format="%.6g")
    told = [f"{out}: {metrics[0].replace('_', ' ')}, {len(trials)} trial{'s' * (len(trials) > 1)}."]
    for env, group in by_env.items() if table else ():
        steps = group["env steps"].max()
        first = round(0.9 * steps) if mean_from is None else mean_from
        last = steps if mean_to is None else mean_to
        told.append(f"{env}: " * several + markdown(group, metrics[0], first, last))
    typer.echo("\n\n".join(told))


def find(folders: Sequence[str]) -> list[Trained]:
    """The trials in folders, which may be given as NAME=FOLDER.

    Raises:
        ValueError: a folder holds none.
    """
    from ray.tune.utils import flatten_dict

    from rllib_ddn.cli.curves import result_folders

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
            run = folder.name.partition("_")[0]  # Tune begins the folder's name with the trainable's
            config = flatten_dict(json.loads((folder / "params.json").read_text()), delimiter=".")
            trial = Trained(given or None, run, {**_defaults(run), **config}, [folder])
            before = [t for t in found if (t.given, t.run, t.config) == (trial.given, trial.run, trial.config)]
            if before and continued[folder]:
                before[0].folders.append(folder)
            else:
                found.append(trial)
    return found


def _continued_at(folder: Path) -> int:
    """The first iteration of a trial that continues from a checkpoint; 0 of one from scratch."""
    import pandas as pd

    first = int(pd.read_csv(folder / "progress.csv", usecols=["training_iteration"], nrows=1).iloc[0, 0])
    return first if first > 1 else 0


def _defaults(run: str) -> dict[str, Any]:
    from ray.tune import TuneError
    from ray.tune.registry import get_trainable_cls
    from ray.tune.utils import flatten_dict

    try:
        defaults = json.loads(json.dumps(get_trainable_cls(run).get_default_config().to_dict(), default=str))
        return flatten_dict(defaults, delimiter=".")
    except (AttributeError, ValueError, TuneError):  # a trainable that is no algorithm, or of a user's program
        return {}


def evaluations_of(trials: Sequence[Trained], metric: str | None) -> pd.DataFrame:
    """The trials' evaluations in one table, see :mod:`rllib_ddn.cli.curves`, with their ``env``. Seeds that are not
    given, or there twice, are numbered.

    Raises:
        ValueError: a trial has no evaluation of this metric.
    """
    import pandas as pd

    from rllib_ddn.cli.curves import evaluations

    by_env: dict[Any, list[Trained]] = {}
    for trial in trials:
        key = tuple(trial.config.get(name) for name in ("env", "env_config.env", "env_config.map_name"))
        by_env.setdefault(key, []).append(trial)
    frames = []
    for group in by_env.values():
        env, taken = name_env(group), set()
        for trial, row in zip(group, name_rows(group), strict=True):
            found = evaluations(trial.folders, metric)
            if found.empty:
                wanted = metric or "the episodes"
                raise ValueError(f"{trial.folders[0]} has no evaluation of {wanted}: see its progress.csv.")
            seed = trial.config.get("seed")
            if seed is None or (row, seed) in taken:
                seed = next(k for k in range(1, 1 + len(trials)) if (row, k) not in taken)
            taken.add((row, seed))
            frames.append(found.assign(env=env, row=row, seed=seed))
    columns = ["env", "row", "seed", "network", "env steps", "hours", "metric", "value"]
    return pd.concat(frames, ignore_index=True)[columns]


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


def name_rows(trials: Sequence[Trained]) -> list[str]:
    """A name for each trial: its algorithm and, where trials of it or their envs differ, in what; not in the seed."""
    env = _different([t.config for t in trials], lambda key: key == "env" or key.startswith("env_config."))
    names = []
    for trial in trials:
        peers = [t.config for t in trials if t.run == trial.run and not t.given]
        own = _different(peers, lambda key: key != "seed" and not key.startswith("env_config."))
        told = ", ".join(
            f"{key.rpartition('.')[2]} {f'{value:.6g}' if isinstance(value, float) else value}"
            for key in dict.fromkeys([*env, *own])
            if (value := trial.config.get(key)) is not None
        )
        names.append(trial.given or NAMES.get(trial.run, trial.run) + (f" ({told})" if told else ""))
    return names


def _different(configs: Sequence[dict[str, Any]], wanted: Callable[[str], bool]) -> list[str]:
    """The keys, of those wanted, that have not the same value in all configs."""
    keys = dict.fromkeys(key for config in configs for key in config if wanted(key))
    return [key for key in keys if len({json.dumps(config.get(key)) for config in configs}) > 1]


def markdown(every: pd.DataFrame, metric: str, first: int, last: int) -> str:
    """A table: of each row and network the evaluations between two env steps, over seeds and of each seed."""
    from rllib_ddn.cli.curves import OVER_SEEDS, figure_of, final, markdown_table

    rows = every[["row", "network"]].drop_duplicates().astype(str).itertuples(index=False)
    seeds = {f"{row} {network}".rstrip(): final(every, row, network, first, last) for row, network in rows}
    over = f"; {OVER_SEEDS}" if any(len(values) > 1 for values in seeds.values()) else ""
    caption = f"{metric.replace('_', ' ')}, mean of the evaluations from {first:,} to {last:,} env steps{over}"
    rows = [(name, figure_of(values), ", ".join(f"{value:.2f}" for value in values)) for name, values in seeds.items()]
    return f"{caption}\n\n{markdown_table(('', 'over seeds', 'single seeds'), rows)}"
