"""`rllib reproduce`: trains the grid of a table and writes the table, one of the paper's in the paper's layout.

A trial is identified by its config. Run again, the command leaves a finished trial as it is, whichever table it was run
for, and continues an interrupted one from its checkpoint. Trials whose folders are elsewhere or gone are known from the
points that were written of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rllib_ddn.cli.common import Debug, Info, parse_object, set_up

if TYPE_CHECKING:
    import pandas as pd

    from rllib_ddn.cli.tables import Table

SCALED = ("leader_timesteps", "mixture_timesteps")  # stages whose length follows the number of steps
COLUMNS = ["row", "seed", "network", "env steps", "hours", "metric", "value"]
DIGITS = "%.6g"  # of a value in the CSV


def reproduce(
    table: Annotated[
        str,
        typer.Argument(
            help="table1 to table5, figure4 or figure5 of the paper; smax, smax_hard, sight or predator_prey."
        ),
    ],
    env: Annotated[str | None, typer.Option("--env", "-e", help="Another registered env than the grid's.")] = None,
    env_config: Annotated[
        str | None, typer.Option(help="The env's config, as JSON; default: that of the grid's file.")
    ] = None,
    config: Annotated[str, typer.Option("--config", "-c", help="Other config keys for all trials, as JSON.")] = "{}",
    seeds: Annotated[
        int | None, typer.Option(help="Number of seeds of each row, counted from the grid's first.", min=1)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Env steps of each trial; default: the grid's.", min=1)] = None,
    row: Annotated[list[str], typer.Option(help="Only this row, named as in the grid's file; may be repeated.")] = [],  # noqa: B006
    storage_path: Annotated[Path, typer.Option(help="Where trials are kept.")] = Path("~/ray_results/paper"),
    out: Annotated[Path, typer.Option(help="Folder for the table, CSV and PNG.")] = Path(),
    ray_num_cpus: Annotated[int | None, typer.Option(help="CPUs of the cluster that is started.")] = None,
    no_run: Annotated[bool, typer.Option("--no-run", help="Only write what the trials so far give.")] = False,
    points: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="What an earlier run wrote: counts for trials that are not in the storage."),
    ] = None,
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Trains the grid of one of the paper's tables.

    The grid runs on any env, and its table is written beside the paper's figures; or a comparison of this package.

    Run again, it continues interrupted trials and leaves finished ones as they are. Figures are means of the
    evaluations in the last tenth of the steps, then the interquartile mean over seeds with a 95% bootstrap interval
    (of two or three: their mean, the lowest and the highest).
    """
    set_up(v, vv)
    games = None if env_config is None else parse_object("--env-config", env_config, '{"penalty": 2.0}')
    changes = parse_object("--config", config, '{"lr": 0.0005}')
    from rllib_ddn.cli.tables import Table
    from rllib_ddn.cli.train import TrainOptions

    about = Table.of(table)
    if unknown := set(row) - set(about.rows):
        raise ValueError(f"{table} has no row {min(unknown)!r}; it has {', '.join(about.rows)}.")
    if points and (env, games, changes, steps) != (None, None, {}, None):
        raise ValueError(
            "--points are of the grid as it is: leave --env, --env-config, --config and --steps out, or --points."
        )
    if points and (row or seeds) and points.resolve() == (out / f"{table}.csv").resolve():
        raise ValueError(f"{points} would keep the rows and seeds alone that are asked for: choose another --out.")
    storage = storage_path.expanduser().absolute()
    found = [t for t in trials(about, env, games, seeds, steps, changes) if not row or t.row in row]
    earlier = read_points(points)
    status = 0
    if not no_run:
        options = TrainOptions(storage_path=str(storage), ray_num_cpus=ray_num_cpus, v=v, vv=vv)
        status = train(table, found, storage, earlier, options)
    if not status or len(earlier) or any(trial.folders(storage) for trial in found):
        write(about, found, storage, earlier, out, changes)
    raise typer.Exit(status)  # of a training that failed, which has reported why


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
        from ray.tune.registry import get_trainable_cls

        if not folder.name.startswith(f"{self.run}_") or not (folder / "params.json").is_file():
            return False
        defaults = get_trainable_cls(self.run).get_default_config().to_dict()
        theirs, own = json.loads((folder / "params.json").read_text()), json.loads(json.dumps(self.config))
        return all(theirs.get(key, defaults.get(key)) == own.get(key, defaults.get(key)) for key in {**theirs, **own})

    def folders(self, storage: Path) -> list[Path]:
        """Of this trial and its continuations, the oldest first."""
        import pandas as pd

        from rllib_ddn.cli.curves import result_folders

        found = [folder for folder in result_folders(storage) if self.matches(folder)]
        return sorted(found, key=lambda folder: int(pd.read_csv(folder / "progress.csv", nrows=1)["timestamp"].iloc[0]))

    def points(self, every: pd.DataFrame) -> pd.DataFrame:
        """Of the points that an earlier run wrote, those of this trial."""
        return every[(every["row"] == self.row) & (every["seed"] == self.seed)]


def trials(
    table: Table,
    env: str | None,
    env_config: dict[str, Any] | None,
    seeds: int | None,
    steps: int | None,
    changes: dict[str, Any],
) -> list[Planned]:
    """The grid of a table with the command's options; None stands for the grid's file. Seeds count from its first."""
    import yaml

    found = []
    for name, spec in yaml.safe_load(table.grid.read_text()).items():
        shared = {**spec["config"], "env": env or spec["env"], **changes}
        if env_config is not None or shared["env"] != spec["env"]:
            shared["env_config"] = changes.get("env_config", {}) if env_config is None else env_config
        its_steps, its_seeds = spec["stop"]["timesteps_total"], spec["config"]["seed"]["grid_search"]
        for key in SCALED:
            if key in shared and steps:
                shared[key] = max(1, round(shared[key] * steps / its_steps))
        row = name.removeprefix(f"{table.grid.stem}-")
        chosen = range(its_seeds[0], its_seeds[0] + seeds) if seeds else its_seeds
        found += [Planned(row, seed, spec["run"], {**shared, "seed": seed}, steps or its_steps) for seed in chosen]
    return found


def read_points(file: Path | None) -> pd.DataFrame:
    """The points that an earlier run wrote, NAME.csv; of no file, none.

    Raises:
        ValueError: the file cannot be read, or is no such table.
    """
    import pandas as pd

    if file is None:
        return pd.DataFrame(columns=COLUMNS)
    try:
        points = pd.read_csv(file, keep_default_na=False, na_values={"hours": ""})
    except (OSError, ValueError) as error:
        raise ValueError(f"--points {file} cannot be read ({error}).") from None
    if list(points.columns) != COLUMNS:
        raise ValueError(
            f"--points {file} is not the CSV of an earlier `rllib reproduce`, with the columns {', '.join(COLUMNS)}."
        )
    return points


def pending(found: list[Planned], storage: Path, points: pd.DataFrame) -> Iterator[tuple[Planned, Path | None]]:
    """The trials that are not finished, with the latest whole checkpoint of each.

    Args:
        points: of trials without folders.
    """
    import pandas as pd

    for trial in found:
        folders = trial.folders(storage)
        if folders:
            reached = pd.read_csv(folders[-1] / "progress.csv", usecols=["timesteps_total"])["timesteps_total"].max()
        else:
            reached = trial.points(points)["env steps"].max()  # NaN where there are none
        if not reached >= trial.steps:
            checkpoints = [path for folder in folders for path in sorted(folder.glob("checkpoint_[0-9]*"))]
            yield trial, next(filter(_is_whole, reversed(checkpoints)), None)


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be read: one that was being copied when the process was killed cannot."""
    from rllib_ddn.cli.checkpoints import check_checkpoint

    try:
        check_checkpoint(checkpoint)
    except ValueError:
        return False
    return True


def train(table: str, found: list[Planned], storage: Path, points: pd.DataFrame, options: Any) -> int:
    """Trains what is pending, one experiment after the other: an interrupted trial from its checkpoint, the others of
    a row with their seeds side by side.

    Returns:
        The exit status.
    """
    from rllib_ddn.cli import tuning
    from rllib_ddn.cli.resume import Folder

    left = list(pending(found, storage, points))
    typer.echo(f"{table}: {len(found) - len(left)} of {len(found)} trials are finished.")
    experiments: dict[str, dict[str, Any]] = {}
    for trial, checkpoint in sorted(left, key=lambda each: each[1] is None):
        name = f"{table}-{trial.row}-seed{trial.seed}" if checkpoint else f"{table}-{trial.row}"
        if (storage / name).exists():
            name += f"_{max(Folder(str(storage), name).numbers(), default=1) + 1}"
        if name in experiments:
            experiments[name]["config"]["seed"]["grid_search"].append(trial.seed)
            continue
        config = trial.config if checkpoint else {**trial.config, "seed": {"grid_search": [trial.seed]}}
        spec = {"run": trial.run, "stop": {"timesteps_total": trial.steps}, "config": config}
        spec["checkpoint_config"] = {"checkpoint_frequency": 5, "checkpoint_at_end": True, "num_to_keep": 1}
        experiments[name] = {**spec, "restore": str(checkpoint)} if checkpoint else spec
    try:
        if experiments:
            tuning.run(experiments, options, again="the same command")
    except typer.Exit as end:
        return end.exit_code
    return 0


def load(found: list[Planned], storage: Path, points: pd.DataFrame) -> pd.DataFrame:
    """All evaluations, in the columns of :mod:`rllib_ddn.cli.curves`: the win rate where the env knows it, else the
    mean return.

    Args:
        points: of trials without folders.

    Raises:
        ValueError: there are none.
    """
    import pandas as pd

    from rllib_ddn.cli.curves import evaluations

    frames = []
    for trial in found:
        if folders := trial.folders(storage):
            frames.append(evaluations(folders).assign(row=trial.row, seed=trial.seed)[COLUMNS])
        else:
            frames.append(trial.points(points))
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        raise ValueError(f"there are no evaluations under {storage}.")
    every = pd.concat(frames, ignore_index=True)
    # As the CSV has them, so that the table that is made of it is the same to the last digit.
    return every.assign(value=[float(DIGITS % value) for value in every["value"]])


def within(every: pd.DataFrame, steps: int) -> pd.DataFrame:
    """The evaluations of trainings of so many steps: what continued them does not count, but the one at their end does,
    however far beyond the steps an iteration has gone."""
    beyond = every[every["env steps"] >= steps]
    last = beyond.groupby(["row", "seed", "network"])["env steps"].transform("min").reindex(every.index)
    return every[(every["env steps"] <= 1.1 * steps) | (every["env steps"] == last)]


def write(
    table: Table, found: list[Planned], storage: Path, points: pd.DataFrame, out: Path, changes: dict[str, Any]
) -> None:
    """Writes NAME.md, NAME.csv and NAME.png of what the trials have so far, and prints the table.

    Raises:
        ValueError: there are no evaluations, or some of win rates and others of returns.
    """
    from ray.tune.registry import get_trainable_cls

    from rllib_ddn.cli.curves import curves, default_window, draw, episodes_of

    every = load(found, storage, points)
    if len(metrics := every["metric"].unique()) > 1:
        raise ValueError(
            f"some evaluations tell the {metrics[0]} and others the {metrics[1]}: they are not of one env."
        )
    steps = max(trial.steps for trial in found)
    every = within(every, steps)
    found = [t for t in found if (every["row"] == t.row).any()]  # rows of which nothing was run are not there
    envs = dict.fromkeys(trial.config["env"] for trial in found)
    settings = dict.fromkeys(json.dumps(trial.config.get("env_config", {})) for trial in found)
    where = " ".join([*envs, *settings]) if len(settings) == 1 else ", ".join(envs)
    numbers = sorted(set(every["seed"]))
    caption = f"{where}, {steps:,} env steps, seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}."
    if changes:
        caption += f" With {json.dumps(changes)}."
    if table.is_papers and list(envs) != ["smac"]:
        caption += " This is not SMAC: compare the rows, not the figures, with the paper's."
    if left := [f"{trial.row} seed {trial.seed}" for trial, _ in pending(found, storage, points)]:
        caption += f" Not finished: {', '.join(left)}."
    out.mkdir(parents=True, exist_ok=True)
    name, text = table.grid.stem, table.markdown(every, caption, steps, ", ".join(envs))
    (out / f"{name}.md").write_text(text)
    every.to_csv(out / f"{name}.csv", index=False, float_format=DIGITS)
    shown, window = [], default_window(steps)
    for curve in curves(every, window):
        panel, label = table.panel_and_legend(curve.row)
        shown.append(replace(curve, row=label, panel=panel))
    episodes = episodes_of(get_trainable_cls(t.run).get_default_config().to_dict() | t.config for t in found)
    draw(shown, metrics[0], episodes, window, f"{table.title}\n{where}", out / f"{name}.png")
    typer.echo(text)
