"""The ``rllib`` command: ``rllib train``, ``evaluate``, ``export``, ``plot``, ``reproduce``, ``example``,
``list`` and ``check-env``.

Ray's own command left after Ray 2.41; this one takes the same sub-commands and options, as far
as they still mean something, and runs RLlib's own algorithms as well as this package's.
"""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

import rllib_ddn
from rllib_ddn.cli.options import (
    Debug,
    Info,
    TrainOptions,
    fail,
    needs_plots,
    one_line_errors,
    parse_object,
    set_up,
    takes_train_options,
)

# Without rich, whose tables cut long option names off at 80 columns.
app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)
train_app = typer.Typer(
    invoke_without_command=True,
    short_help="Trains an algorithm, or what a file describes.",
    help="Train: `rllib train file X.yaml`, or `rllib train --algo DDN --env predator_prey`.",
)
app.add_typer(train_app, name="train")
example_app = typer.Typer(no_args_is_help=True, help="The tuned examples that come with the package.")
app.add_typer(example_app, name="example")
list_app = typer.Typer(no_args_is_help=True, help="The names that commands and configs take.")
app.add_typer(list_app, name="list")
# Typer has Click's errors under names that depend on its version.
USAGE_ERROR: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]


def _show_version(wanted: bool) -> None:
    if wanted:
        versions = (f"{name} {metadata.version(name)}" for name in ("ray", "torch"))
        typer.echo(", ".join([f"rllib-ddn {rllib_ddn.__version__}", *versions]))
        raise typer.Exit


@app.callback()
def rllib(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the versions of package, Ray and torch."
        ),
    ] = False,
) -> None:
    """Train and evaluate RLlib algorithms, DDN among them."""


class Network(StrEnum):
    leader = "leader"
    follower = "follower"
    agent = "agent"


class Players(StrEnum):
    leader = "leader"
    follower = "follower"
    agent = "agent"
    both = "both"


class Format(StrEnum):
    onnx = "onnx"
    torch = "torch"


Best = Annotated[
    bool, typer.Option("--best", help="The best checkpoint, of an experiment the best trial's. Default for folders.")
]
Latest = Annotated[bool, typer.Option("--latest", help="The latest checkpoint. Default for a checkpoint.")]


def _which(best: bool, latest: bool) -> str | None:
    if best and latest:
        fail("choose one of --best and --latest.")
    return "best" if best else "latest" if latest else None


class By(StrEnum):
    steps = "steps"
    hours = "hours"


@train_app.callback()
@takes_train_options
def train(
    context: typer.Context,
    algo: Annotated[
        str | None, typer.Option("--algo", "--run", "-a", "-r", help="Registered algorithm, such as DDN or PPO.")
    ] = None,
    experiment_name: Annotated[
        str | None,
        typer.Option("--experiment-name", "-n", help="Folder of the results; default: ALGO_ENV_1, ALGO_ENV_2, ..."),
    ] = None,
    *,
    options: TrainOptions,
) -> None:
    """Trains one algorithm on one env."""
    if context.invoked_subcommand:
        if algo or experiment_name or options != TrainOptions():
            fail(f"options go after the file: rllib train {context.invoked_subcommand} X.yaml --stop ...")
        return
    if not algo:
        fail("--algo is missing: name an algorithm such as DDN, or use `rllib train file X.yaml`.")
    _train({experiment_name or algo: {"run": algo}}, options, numbered=not experiment_name)


@train_app.command("file")
@takes_train_options
def train_file(
    config_file: Annotated[Path, typer.Argument(help="X.yaml with experiments, or X.py with a variable `config`.")],
    *,
    options: TrainOptions,
) -> None:
    """Trains what a file describes.

    A yaml file maps experiment names to `run`, `env`, `stop`, `config`, and optionally `num_samples`,
    `checkpoint_config`, `scheduler` and `scheduler_config`. A Python file has a variable `config` (an
    AlgorithmConfig) and optionally `stop` (a dict). Options given here win over the file.
    """
    set_up(options.v, options.vv)
    from rllib_ddn.cli.experiments import load

    _train(load(config_file), options)


def _train(experiments: dict[str, dict[str, Any]], options: TrainOptions, numbered: bool = False) -> None:
    set_up(options.v, options.vv)
    from rllib_ddn.cli.training import run

    run(experiments, options, numbered)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint, a trial or an experiment.")],
    algo: Annotated[
        str | None, typer.Option("--algo", "--run", "-a", "-r", help="The algorithm; checked against the checkpoint.")
    ] = None,
    env: Annotated[str | None, typer.Option("--env", "-e", help="Another env than the checkpoint's.")] = None,
    config: Annotated[str, typer.Option("--config", "-c", help="Config keys to change, as JSON.")] = "{}",
    episodes: Annotated[int, typer.Option(help="Episodes (of each network).", min=1)] = 32,
    network: Annotated[
        Players, typer.Option(help="Who plays: leader, follower or both; a host alone has one network, agent.")
    ] = Players.both,
    render: Annotated[bool, typer.Option("--render", help="Draw the env in a window (render_mode human).")] = False,
    save_gif: Annotated[
        Path | None, typer.Option(help="Folder for an animation of each episode (render_mode rgb_array).")
    ] = None,
    save_mp4: Annotated[
        Path | None, typer.Option(help="Folder for a film of each episode; needs rllib-ddn[video].")
    ] = None,
    save_replay: Annotated[Path | None, typer.Option(help="Folder for StarCraft's own replays (env smac).")] = None,
    best: Best = False,
    latest: Latest = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the results, as JSON.")] = None,
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Plays greedy episodes from a checkpoint.

    Prints the statistics of their returns, with 95% intervals. No training has used the episodes' seeds.
    """
    set_up(v, vv)
    changes = parse_object("--config", config, '{"num_envs_per_env_runner": 8}')
    with one_line_errors():
        from rllib_ddn.cli.playing import play, report

        results = play(
            checkpoint,
            _which(best, latest),
            algo_name=algo,
            env=env,
            changes=changes,
            episodes=episodes,
            network=network.value,
            render=render,
            save_gif=save_gif,
            save_mp4=save_mp4,
            save_replay=save_replay,
        )
    text = json.dumps(results, indent=2)
    typer.echo(text if as_json else report(results))
    if out:
        with one_line_errors():
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text + "\n")


@example_app.command("list")
def example_list(
    words: Annotated[str, typer.Argument(help="Show those whose name or summary holds this.")] = "",
) -> None:
    """Lists the examples."""
    from rllib_ddn.cli.examples import names, summary

    known = [(name, summary(name)) for name in names()]
    shown = [(name, text) for name, text in known if words.lower() in f"{name} {text}".lower()]
    if not shown:
        fail(f"no example's name or summary holds {words!r}; `rllib example list` shows all.")
    for name, text in shown:
        typer.echo(f"{name:{max(len(name) for name, _ in known)}}  {text}")


@example_app.command("get")
def example_get(name: Annotated[str, typer.Argument(help="As `rllib example list` shows it.")]) -> None:
    """Prints an example's file: to change it, put it into a file of yours, and train that."""
    from rllib_ddn.cli.examples import file_of

    typer.echo(file_of(name).read_text(), nl=False)


@example_app.command("run")
@takes_train_options
def example_run(
    name: Annotated[str, typer.Argument(help="As `rllib example list` shows it.")],
    *,
    options: TrainOptions,
) -> None:
    """Trains an example, as `rllib train file` does. Options given here win over it."""
    set_up(options.v, options.vv)
    from rllib_ddn.cli.examples import file_of
    from rllib_ddn.cli.experiments import load

    _train(load(file_of(name)), options)


@list_app.command("algos")
def list_algos() -> None:
    """Lists the algorithms."""
    from rllib_ddn.cli.listing import algos

    typer.echo("\n".join(algos()))


@list_app.command("envs")
def list_envs() -> None:
    """Lists the registered envs."""
    from rllib_ddn.cli.listing import envs

    typer.echo("\n".join(envs()))


@list_app.command("keys")
def list_keys(algo: Annotated[str, typer.Argument(help="As `rllib list algos` shows it.")] = "DDN") -> None:
    """Lists an algorithm's config keys with defaults and accepted values."""
    from rllib_ddn.cli.listing import keys

    with one_line_errors():
        typer.echo("\n".join(keys(algo)))


@app.command("check-env")
def check_env(
    env: Annotated[str, typer.Argument(help="Registered env, such as pettingzoo, or module:name of a custom one.")],
    env_config: Annotated[str, typer.Option(help="The env's config, as JSON.")] = "{}",
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Checks whether an env can be trained on.

    It shows the team's sizes and plays an episode with random actions. An episode that does not end within 10,000
    steps, or 2 minutes, is an error: training plays whole episodes.
    `rllib check-env smac` also shows the versions of what SMAC needs, and plays on each of the paper's maps.
    """
    set_up(v, vv)
    arguments = parse_object("--env-config", env_config, '{"env": "my_env:make"}')
    with one_line_errors():
        from rllib_ddn.cli.checking import check_env

        good = check_env(env, arguments)
    raise typer.Exit(0 if good else 1)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint, a trial or an experiment.")],
    out: Annotated[Path, typer.Option(help="Folder for the network's file and policy.json.")],
    network: Annotated[
        Network | None, typer.Option(help="Which network; by default the follower, of a host its one network.")
    ] = None,
    file_format: Annotated[Format, typer.Option("--format", help="ONNX, or a program of torch.export.")] = Format.onnx,
    best: Best = False,
    latest: Latest = False,
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Writes a trained network for use without Ray.

    rllib_ddn.deploy.ExportedPolicy plays it.
    """
    set_up(v, vv)
    with one_line_errors():
        from rllib_ddn.cli.exporting import export as export_checkpoint

        written = export_checkpoint(checkpoint, _which(best, latest), out, network and network.value, file_format.value)
    typer.echo(json.dumps(written, indent=2))


@app.command()
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
    by: Annotated[By, typer.Option(help="What the x axis is: env steps or the hours of training.")] = By.steps,
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
    """Draws learning curves.

    Algorithms are beside each other, seeds joined.
    """
    set_up(v, vv)
    with one_line_errors(), needs_plots():
        from rllib_ddn.cli.plotting import plot

        told = plot(
            folders,
            out=out,
            csv=csv,
            metric=metric,
            by="env steps" if by is By.steps else "hours",
            window=window,
            title=title,
            table=table,
            first=mean_from,
            last=mean_to,
        )
        typer.echo(told)


@app.command()
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

    The grid runs on any env, and its table is written beside the paper's figures; or a comparison of this package's own.

    Run again, it continues interrupted trials and leaves finished ones as they are. Figures are means of the evaluations
    in the last tenth of the steps, then the interquartile mean over seeds with a 95% bootstrap interval
    (of two or three: their mean, the lowest and the highest).
    """
    set_up(v, vv)
    games = None if env_config is None else parse_object("--env-config", env_config, '{"penalty": 2.0}')
    changes = parse_object("--config", config, '{"lr": 0.0005}')
    with one_line_errors(), needs_plots():
        from rllib_ddn.cli.reproducing import reproduce

        status = reproduce(
            table,
            env=env,
            env_config=games,
            config=changes,
            seeds=seeds,
            steps=steps,
            rows=row,
            storage=storage_path,
            out=out,
            cpus=ray_num_cpus,
            no_run=no_run,
            points=points,
        )
    raise typer.Exit(status)


def main() -> None:
    """The console script's entry. The current directory is importable, for envs of one's own; Ray's workers
    look there by themselves."""
    sys.path.insert(0, os.getcwd())
    try:
        sys.exit(app(standalone_mode=False))
    except USAGE_ERROR as error:
        message = error.format_message()  # type: ignore[attr-defined]
        if message.startswith("No such command") and (message.rstrip("'.").endswith((".yaml", ".yml", ".py"))):
            message += " A file is trained by `rllib train file`."
        # The message of a command that lacks a subcommand is its help.
        typer.echo(message if "\n" in message else f"rllib: {message}", err=True)
        sys.exit(2)
    except typer.Abort:
        sys.exit(1)
