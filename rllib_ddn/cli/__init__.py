"""The ``rllib`` command: ``rllib train``, ``evaluate``, ``export``, ``plot``, ``reproduce``, ``example``, ``list`` and
``check-env``.

Ray's own command left after Ray 2.41; this one takes the same sub-commands and options, as far as they still mean
something, and runs RLlib's own algorithms as well as this package's. Each command is a function in the module of its
name, which imports Ray and torch when it runs: help and wrong options take no time.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Annotated

import typer

import rllib_ddn
from rllib_ddn.cli import check_env, evaluate, export, plot, reproduce, show, train
from rllib_ddn.cli.common import one_line_errors

# Without rich, whose tables cut long option names off at 80 columns.
app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)
train_app = typer.Typer(
    invoke_without_command=True,
    callback=train.train,
    short_help="Trains an algorithm, or what a file describes.",
    help="Train: `rllib train file X.yaml`, or `rllib train --algo DDN --env predator_prey`.",
)
train_app.command("file")(train.train_file)
app.add_typer(train_app, name="train")
app.command()(one_line_errors()(evaluate.evaluate))
app.command()(one_line_errors()(export.export))
app.command()(one_line_errors()(plot.plot))
app.command()(one_line_errors()(reproduce.reproduce))
app.command("check-env")(one_line_errors()(check_env.check_env))

example_app = typer.Typer(no_args_is_help=True, help="The tuned examples that come with the package.")
example_app.command("list")(show.example_list)
example_app.command("get")(show.example_get)
example_app.command("run")(show.example_run)
app.add_typer(example_app, name="example")
list_app = typer.Typer(no_args_is_help=True, help="The names that commands and configs take.")
list_app.command("algos")(show.list_algos)
list_app.command("envs")(show.list_envs)
list_app.command("keys")(show.list_keys)
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


def main() -> None:
    """The console script's entry. Makes the working directory importable, for custom envs; Ray's workers look there
    by themselves."""
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
