"""`rllib train`: its options, and the sub-commands that train what options or a file describe."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from rllib_ddn.cli.common import Debug, Info, fail, one_line_errors, set_up


class Tracker(StrEnum):
    wandb = "wandb"
    mlflow = "mlflow"
    tensorboard = "tensorboard"


@dataclass
class TrainOptions:
    """The options of a training. None stands for the file's value, else Tune's default."""

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
    checkpoint_at_end: Annotated[
        bool | None, typer.Option(help="Whether to checkpoint at the end; default: yes.")
    ] = None  # fmt: skip
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
            help="Continue the experiment of this name, or without a name the newest with these settings; "
            "where there is none, start from scratch.",
        ),
    ] = False
    scheduler: Annotated[
        str | None, typer.Option(help="Tune's trial scheduler, such as fifo, async_hyperband, pbt.")
    ] = None
    scheduler_config: Annotated[str, typer.Option(help="The scheduler's arguments, as JSON.")] = "{}"
    track: Annotated[
        Tracker | None,
        typer.Option(help="Log to Weights & Biases or MLflow, too; or print where TensorBoard finds the run."),
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

    @one_line_errors()
    def expanded(**arguments: Any) -> None:
        options = TrainOptions(**{name: arguments.pop(name) for name in names})
        command(**arguments, options=options)

    expanded.__name__, expanded.__doc__ = command.__name__, command.__doc__
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return expanded


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
    set_up(options.v, options.vv)
    from rllib_ddn.cli import tuning

    tuning.run({experiment_name or algo: {"run": algo}}, options, numbered=not experiment_name)


@takes_train_options
def train_file(
    config_file: Annotated[Path, typer.Argument(help="X.yaml with experiments, or X.py with a variable `config`.")],
    *,
    options: TrainOptions,
) -> None:
    """Trains what a file describes, one experiment after the other.

    A yaml file maps experiment names to `run`, `env`, `stop`, `config`, and optionally `num_samples`,
    `checkpoint_config`, `scheduler` and `scheduler_config`. A Python file has a variable `config` (an
    AlgorithmConfig) and optionally `stop` (a dict). Options given here win over the file.
    """
    set_up(options.v, options.vv)
    from rllib_ddn.cli import tuning
    from rllib_ddn.cli.experiments import load

    tuning.run(load(config_file), options)
