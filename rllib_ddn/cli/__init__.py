"""The ``rllib`` command: ``rllib train`` and ``rllib evaluate``.

Ray's own command left after Ray 2.41; this one takes the same sub-commands and options, as far
as they still mean something, and runs RLlib's own algorithms as well as this package's.
"""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from rllib_ddn.cli.options import Debug, Info, TrainOptions, fail, one_line_errors, parse_object, set_up, takes_train_options

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Train and evaluate RLlib algorithms, DDN among them.")
train_app = typer.Typer(
    invoke_without_command=True, help="Train: `rllib train file X.yaml`, or `rllib train --algo DDN --env predator_prey`."
)
app.add_typer(train_app, name="train")


class Network(StrEnum):
    leader = "leader"
    follower = "follower"
    both = "both"


@train_app.callback()
@takes_train_options
def train(
    context: typer.Context,
    algo: Annotated[
        str | None, typer.Option("--algo", "--run", "-a", "-r", help="Registered algorithm, such as DDN or PPO.")
    ] = None,
    experiment_name: Annotated[str, typer.Option("--experiment-name", "-n", help="Folder of the results.")] = "default",
    *,
    options: TrainOptions,
) -> None:
    """Trains one algorithm on one env."""
    if context.invoked_subcommand:
        if algo or experiment_name != "default" or options != TrainOptions():
            fail(f"options go after the file: rllib train {context.invoked_subcommand} X.yaml --stop ...")
        return
    if not algo:
        fail("--algo is missing: name an algorithm such as DDN, or use `rllib train file X.yaml`.")
    _train({experiment_name: {"run": algo}}, options)


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


def _train(experiments: dict[str, dict[str, Any]], options: TrainOptions) -> None:
    set_up(options.v, options.vv)
    from rllib_ddn.cli.training import run

    run(experiments, options)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint directory.")],
    algo: Annotated[
        str | None, typer.Option("--algo", "--run", "-a", "-r", help="The algorithm; checked against the checkpoint.")
    ] = None,
    env: Annotated[str | None, typer.Option("--env", "-e", help="Another env than the checkpoint's.")] = None,
    config: Annotated[str, typer.Option("--config", "-c", help="Config keys to change, as JSON.")] = "{}",
    episodes: Annotated[int, typer.Option(help="Episodes (of each network).", min=1)] = 32,
    network: Annotated[Network, typer.Option(help="Who plays, for algorithms with a leader and a follower.")] = Network.both,
    render: Annotated[bool, typer.Option("--render", help="Draw the env in a window (render_mode human).")] = False,
    save_gif: Annotated[Path | None, typer.Option(help="Folder for an animation of each episode (render_mode rgb_array).")] = None,
    save_replay: Annotated[Path | None, typer.Option(help="Folder for StarCraft's own replays (env smac).")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the results, as JSON.")] = None,
    v: Info = False,
    vv: Debug = False,
) -> None:
    """Plays greedy episodes from a checkpoint and prints their returns."""
    set_up(v, vv)
    changes = parse_object("--config", config, '{"num_envs_per_env_runner": 8}')
    with one_line_errors():
        from rllib_ddn.cli.playing import play

        results = play(checkpoint, algo, env, changes, episodes, network.value, render, save_gif, save_replay)
    text = json.dumps(results, indent=2)
    typer.echo(text)
    if out:
        with one_line_errors():
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text + "\n")


def main() -> None:
    """The console script's entry. The current directory is importable, for envs of one's own; Ray's workers
    look there by themselves."""
    sys.path.insert(0, os.getcwd())
    app()
