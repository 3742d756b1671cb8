"""Options that ``rllib train`` and ``rllib train file`` share, what they hold, and how errors are told."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

import typer

Info = Annotated[bool, typer.Option("--log-info", "-v", help="Log at level INFO.")]
Debug = Annotated[bool, typer.Option("--log-debug", "-vv", help="Log at level DEBUG.")]


class Tracker(StrEnum):
    wandb = "wandb"
    mlflow = "mlflow"
    tensorboard = "tensorboard"


@dataclass
class TrainOptions:
    """The options of a training. None stands for what the file, else Tune, says."""

    env: Annotated[
        str | None,
        typer.Option("--env", "-e", help="Registered env, such as predator_prey, or module:name of a custom one."),
    ] = None
    config: Annotated[str, typer.Option("--config", "-c", help="The algorithm's config, as JSON.")] = "{}"
    env_config: Annotated[str, typer.Option(help="The env's config, as JSON.")] = "{}"
    stop: Annotated[
        str, typer.Option("--stop", "-s", help="When to stop, as JSON: '{\"timesteps_total\": 100000}'.")
    ] = "{}"
    num_samples: Annotated[int | None, typer.Option(help="Times each configuration is run.")] = None
    checkpoint_freq: Annotated[
        int | None, typer.Option(help="Iterations between checkpoints; 0 for none. Default: 2 minutes.")
    ] = None
    checkpoint_at_end: Annotated[bool | None, typer.Option(help="Whether to checkpoint at the end; default: yes.")] = (
        None
    )
    keep_checkpoints_num: Annotated[int | None, typer.Option(help="Number of checkpoints kept.")] = None
    checkpoint_score_attr: Annotated[
        str | None, typer.Option(help='Metric that ranks the checkpoints kept; "min-" before it for the smallest.')
    ] = None
    storage_path: Annotated[
        str | None, typer.Option("--storage-path", "--local-dir", help="Where results go; default ~/ray_results.")
    ] = None
    restore: Annotated[str | None, typer.Option(help="Checkpoint directory to start from.")] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the experiment of this name, or without a name the newest with these settings; where there is none, "
            "start from scratch.",
        ),
    ] = False
    scheduler: Annotated[
        str | None, typer.Option(help="Tune's trial scheduler, such as fifo, async_hyperband, pbt.")
    ] = None
    scheduler_config: Annotated[str, typer.Option(help="The scheduler's arguments, as JSON.")] = "{}"
    track: Annotated[
        Tracker | None,
        typer.Option(
            help="Log to Weights & Biases or MLflow, too; TensorBoard's files are always written, and it says where."
        ),
    ] = None
    ray_address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster.")] = None
    ray_num_cpus: Annotated[int | None, typer.Option(help="CPUs of the cluster (of each node) that is started.")] = None
    ray_num_gpus: Annotated[int | None, typer.Option(help="GPUs of the cluster (of each node) that is started.")] = None
    ray_num_nodes: Annotated[int | None, typer.Option(help="Nodes to emulate on this machine.")] = None
    v: Info = False
    vv: Debug = False


def takes_train_options(command: Callable[..., None]) -> Callable[..., None]:
    """Lets a command, a function with a parameter ``options: TrainOptions``, take each field as an option.

    Typer reads a command's options from its signature, so this one shows the fields in place of ``options``.
    """
    hints = get_type_hints(TrainOptions, include_extras=True)
    names = [field.name for field in fields(TrainOptions)]
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if parameter.name == "options":
            for field in fields(TrainOptions):
                shared = inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
                parameters.append(shared.replace(annotation=hints[field.name]))
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    def expanded(**arguments: Any) -> None:
        options = TrainOptions(**{name: arguments.pop(name) for name in names})
        command(**arguments, options=options)

    expanded.__name__, expanded.__doc__ = command.__name__, command.__doc__
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return expanded


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


def set_up(v: bool, vv: bool) -> None:
    """Sets what Ray reads from the environment, and leaves its chatter out unless more logging is asked for."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # not 15, at which workers starve beside other processes
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's newer output cannot show chosen columns
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not (v or vv):
        warnings.filterwarnings("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.WARNING)
        # The command itself reports interrupted and failed trials,
        # and of stop keys that no result has, which trial.py would do with a list of all keys.
        for name in (
            "ray.tune.tune",
            "ray.tune.analysis",
            "ray.tune.execution.experiment_state",
            "ray.tune.experiment.trial",
        ):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")


@contextlib.contextmanager
def one_line_errors(code: int = 2) -> Iterator[None]:
    """Errors within end the command with one line and this exit code; with -vv they show where."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (typer.Exit, typer.Abort)) or not {"-vv", "--log-debug"}.isdisjoint(sys.argv):
            raise
        text = " ".join(str(error).split())
        if not text or not isinstance(error, (ValueError, OSError)):
            text = f"{type(error).__name__}: {text}"
        fail(text, code)


@contextlib.contextmanager
def needs_plots() -> Iterator[None]:
    """Says how to install what figures need, where it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "pandas", "scipy"):
            raise
        fail(f"figures need {error.name}: pip install 'rllib-ddn[plots]'")


def command() -> str:
    """What to type for this command: its path where the shell does not find it by its name."""
    beside = Path(sys.executable).with_name("rllib")
    if shutil.which("rllib") or not beside.exists():
        return "rllib"
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)


def fail(message: str, code: int = 2) -> NoReturn:
    """Ends the command with a line for the user."""
    typer.echo(f"rllib: {message}", err=True)
    raise typer.Exit(code)
