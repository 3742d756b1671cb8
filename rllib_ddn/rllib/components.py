"""The components that a config chooses, by a name or as a custom class: their classes, the checks of their options, and
who is blamed where a custom one fails."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rllib_ddn.learning.intrinsic import IDM, IntrinsicReward
from rllib_ddn.names import is_custom, resolved
from rllib_ddn.networks import TeamSizes
from rllib_ddn.rllib.accepts import FLAG, SIZE, Accepts, between, cause


def class_of(choice: Any, table: Mapping[str, Any]) -> Any:
    """The class of a config's choice, which is a name in a table or a custom class, also as ``module:name``."""
    found = resolved(choice)
    return table[found] if isinstance(found, str) else found


def intrinsic_reward_class(choice: Any) -> type[IntrinsicReward] | None:
    """The class of the config's ``intrinsic_reward``: True is the IDM, False none."""
    if choice is False:
        return None
    return IDM if choice is True else resolved(choice)


# What an option accepts, by the annotation of the constructor's argument.
_BY_ANNOTATION = {
    "int": SIZE,
    "float": between(-1_000_000, 1_000_000),
    "bool": FLAG,
    "str": Accepts("a string", lambda value: isinstance(value, str)),
}


def check_options(key: str, owner: Any, options: Mapping[str, Any], shared: Collection[str] = ()) -> None:
    """Checks the names of a component's options, and the values of those that its constructor annotates as ``int`` (a
    size), ``float``, ``bool`` or ``str``. Further checks are the constructor's.

    Args:
        key: the config key that holds them.
        owner: the class, built as ``owner(sizes, **options)``.
        options: the config's.
        shared: names of arguments that the class gets from other keys.

    Raises:
        ValueError: an option is unknown, or its value is not accepted.
    """
    accepted: dict[str, inspect.Parameter] = {}
    for base in (base for base in owner.__mro__ if "__init__" in vars(base)):
        parameters = list(inspect.signature(base).parameters.values())[1:]  # without the sizes
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        accepted |= {p.name: p for p in named if p.name not in shared and p.name not in accepted}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break  # it passes nothing on
    for name, value in options.items():
        if name not in accepted:
            raise ValueError(f"{key}[{name!r}] is unknown: {owner.__name__} has {', '.join(accepted) or 'no options'}.")
        kind = accepted[name].annotation
        kind = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
        if kind in _BY_ANNOTATION:
            _BY_ANNOTATION[kind].validate(f"{key}[{name!r}]", value)


def check_component(key: str, owner: Any, sizes: TeamSizes, options: Mapping[str, Any]) -> None:
    """Builds a component, to check its options and, of a custom one, whether it can be built.

    Args:
        key: the config key that names it.
        owner: its class.
        sizes: the team's.
        options: the config's.

    Raises:
        ValueError: it cannot.
    """
    try:
        component = owner(sizes, **options)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{key}: {owner.__name__}(sizes, **{dict(options)!r}) fails: {cause(error)}") from error
    if "_parameters" not in vars(component):
        raise ValueError(f"{key}: {owner.__name__} lacks super().__init__(sizes) in its __init__().")


@contextmanager
def blame_custom_components(config: Mapping[str, Any], what: str) -> Iterator[None]:
    """Names the custom components in use where something fails for which no key is to blame.

    Args:
        config: the algorithm's.
        what: is done here, with networks and losses alone.

    Raises:
        ValueError: what failed, in one line.
    """
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        custom = {name: config[name] for name in _COMPONENTS if _is_custom(config.get(name))}
        if not custom:
            raise
        parts = ", ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in custom.items())
        raise ValueError(f"{what} with {parts} fails: {cause(error)}") from error


_COMPONENTS = ("mixer", "targets", "state_fusion", "q_loss", "distillation_terms", "intrinsic_reward")


def _is_custom(value: Any) -> bool:
    """Whether a key's value is a custom component, or a dict with one."""
    if isinstance(value, dict):
        return any(isinstance(entry, (tuple, list)) and _is_custom(entry[0]) for entry in value.values() if entry)
    return callable(value) or is_custom(value)
