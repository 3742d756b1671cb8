"""What all commands share: common options, logging, and errors of one line."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

Info = Annotated[bool, typer.Option("--log-info", "-v", help="Log at level INFO.")]
Debug = Annotated[bool, typer.Option("--log-debug", "-vv", help="Log at level DEBUG.")]
Best = Annotated[
    bool, typer.Option("--best", help="The best checkpoint, of an experiment the best trial's. Default for folders.")
]
Latest = Annotated[bool, typer.Option("--latest", help="The latest checkpoint. Default for a checkpoint.")]


def set_up(v: bool, vv: bool) -> None:
    """Sets what Ray reads from the environment, and silences Ray's own log unless more is asked for."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # not 15, at which workers starve beside other processes
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's newer output cannot show chosen columns
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if v or vv:
        return
    warnings.filterwarnings("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    # The command itself reports interrupted and failed trials, and stop keys that no result has.
    for name in ("tune", "analysis", "execution.experiment_state", "experiment.trial"):
        logging.getLogger(f"ray.tune.{name}").setLevel(logging.CRITICAL)


def fail(message: str, code: int = 2) -> NoReturn:
    """Ends the command with a line for the user."""
    typer.echo(f"rllib: {message}", err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def one_line_errors(code: int = 2) -> Iterator[None]:
    """Errors within end the command with one line and this exit code; with -vv they show where."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (typer.Exit, typer.Abort)) or not {"-vv", "--log-debug"}.isdisjoint(sys.argv):
            raise
        text = " ".join(str(error).split())
        if isinstance(error, ModuleNotFoundError) and error.name in ("matplotlib", "pandas", "scipy"):
            text = f"figures need {error.name}: pip install 'rllib-ddn[plots]'"
        elif not text or not isinstance(error, (ValueError, OSError)):
            text = f"{type(error).__name__}: {text}"
        fail(text, code)


def parse_object(option: str, text: str, example: str) -> dict[str, Any]:
    """An option's JSON object.

    Args:
        option: its name, for the error.
        text: what the user gave.
        example: such an object, for the error.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        fail(f"{option} is not JSON ({error.msg} at character {error.pos}) such as '{example}'; got {text}")
    if not isinstance(value, dict):
        fail(f"{option} is a JSON object such as '{example}'; got {text}")
    return value


def best_or_latest(best: bool, latest: bool) -> str | None:
    """What ``--best`` and ``--latest`` ask for; None for the default."""
    if best and latest:
        fail("choose one of --best and --latest.")
    return "best" if best else "latest" if latest else None


def command() -> str:
    """What to type for this command: its path where the shell does not find it by its name."""
    beside = Path(sys.executable).with_name("rllib")
    if shutil.which("rllib") or not beside.exists():
        return "rllib"
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)
