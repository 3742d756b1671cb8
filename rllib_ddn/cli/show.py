"""`rllib example` and `rllib list`: the tuned examples, and the names that commands and configs take."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from rllib_ddn.cli.common import fail, set_up
from rllib_ddn.cli.train import TrainOptions, takes_train_options
from rllib_ddn.names import did_you_mean

EXAMPLES = Path(__file__).parents[1] / "tuned_examples"
Name = Annotated[str, typer.Argument(help="As `rllib example list` shows it.")]


def example_names() -> list[str]:
    """The examples: their files' paths in the folder, without .yaml."""
    found = (path.relative_to(EXAMPLES).with_suffix("").as_posix() for path in EXAMPLES.glob("**/*.yaml"))
    return sorted(found, key=lambda name: ("/" in name, name))


def example_file(name: str) -> Path:
    """An example's file."""
    known, name = example_names(), name.removesuffix(".yaml")
    if name not in known:
        hint = did_you_mean(name, known, count=3, otherwise="`rllib example list` shows all.")
        fail(f"there is no example {name!r}; {hint}")
    return EXAMPLES / f"{name}.yaml"


def summary(text: str) -> str:
    """The first sentence of the comment with which an example begins."""
    comment: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment).split(". ")[0].rstrip(".:")


def example_list(
    words: Annotated[str, typer.Argument(help="Show those whose name or summary holds this.")] = "",
) -> None:
    """Lists the examples."""
    known = [(name, summary(example_file(name).read_text())) for name in example_names()]
    shown = [(name, text) for name, text in known if words.lower() in f"{name} {text}".lower()]
    if not shown:
        fail(f"no example's name or summary holds {words!r}; `rllib example list` shows all.")
    _print_aligned(shown)


def example_get(name: Name) -> None:
    """Prints an example's file: save it to change it, and train that."""
    typer.echo(example_file(name).read_text(), nl=False)


@takes_train_options
def example_run(name: Name, *, options: TrainOptions) -> None:
    """Trains an example, as `rllib train file` does. Options given here win over it."""
    file = example_file(name)
    set_up(options.v, options.vv)
    from rllib_ddn.cli import tuning
    from rllib_ddn.cli.experiments import load

    tuning.run(load(file), options)


def list_algos() -> None:
    """Lists the algorithms."""
    from ray.rllib.algorithms.registry import ALGORITHMS

    from rllib_ddn.cli.experiments import OURS

    _print_aligned((name, _summary_of(algo)) for name, algo in OURS.items())
    typer.echo(f"RLlib's own: {', '.join(sorted(ALGORITHMS))}")


def list_envs() -> None:
    """Lists the registered envs."""
    from rllib_ddn import ENVS

    custom = ("module:name", "A custom class or function that makes a grouped RLlib env")
    _print_aligned([*((name, _summary_of(env)) for name, env in ENVS.items()), custom])


def list_keys(algo: Annotated[str, typer.Argument(help="As `rllib list algos` shows it.")] = "DDN") -> None:
    """Lists an algorithm's config keys with defaults and accepted values."""
    from rllib_ddn.cli.experiments import OURS
    from rllib_ddn.rllib.accepts import shown
    from rllib_ddn.rllib.ranges import RANGES

    if algo not in OURS:
        fail(f"{algo!r} is no algorithm of this package, whose keys are listed; {did_you_mean(algo, OURS)}")
    config = OURS[algo].get_default_config()
    _print_aligned((key, shown(getattr(config, key), 40), RANGES[key].words) for key in config.keys_with_defaults())


def _summary_of(described: Any) -> str:
    return (inspect.getdoc(described) or "").splitlines()[0].replace("`", "").rstrip(".")


def _print_aligned(rows: Iterable[tuple[str, ...]]) -> None:
    """Prints rows with two spaces between columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
