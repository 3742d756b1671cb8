"""The declaration of config keys: each is written once, with its default, what it accepts, and its meaning.

A config class declares its keys in its body::

    mask_probability: float = key(0.75, PROBABILITY, "mu, the probability with which ...")

From these come the defaults, :meth:`validate`'s messages and the docstring of ``training()``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from rllib_ddn.learning.optimizers import OPTIMIZERS, make_optimizer
from rllib_ddn.names import nearest, resolved


@dataclass(frozen=True)
class Accepts:
    """What a key accepts: in words, and as a check of a value."""

    words: str
    check: Callable[[Any], bool]

    def or_none(self) -> Accepts:
        return Accepts(f"{self.words}, or None", lambda value: value is None or self.check(value))

    def validate(self, name: str, value: Any) -> None:
        """
        Args:
            name: the key.
            value: what it was given.

        Raises:
            ValueError: the value is not accepted; the message names the key, the value, and what is accepted.
        """
        if not self.check(value):
            raise ValueError(f"{name} is {self.words}; got {shown(value)}.{self.hint(value)}")

    def hint(self, value: Any) -> str:
        """More about a value that is not accepted, with a space before it."""
        return ""


@dataclass(frozen=True)
class Key:
    """One key of a config; see :func:`key`."""

    default: Any
    accepts: Accepts
    meaning: str


def key(default: Any, accepts: Accepts, meaning: str) -> Any:
    """Declares a key in the body of a config class.

    Args:
        default: its default.
        accepts: what it accepts.
        meaning: what it means, with units and source, for the docstring of ``training()``.
    """
    return Key(default, accepts, meaning)


def declared(config_class: type) -> dict[str, Key]:
    """A config class's keys, those of its bases first, with the ``defaults`` that a subclass changes."""
    keys: dict[str, Key] = {}
    for base in reversed(config_class.__mro__):
        keys |= {name: value for name, value in vars(base).items() if isinstance(value, Key)}
        keys |= {name: replace(keys[name], default=value) for name, value in vars(base).get("defaults", {}).items()}
    return keys


def documented(config_class: Any) -> None:
    """Gives a config class's ``training()`` a docstring and a signature with the keys that it takes, and adds its
    other keys to the docstring of the class."""
    inherited, keys = config_class.training, declared(config_class)

    def training(self: Any, **settings: Any) -> Any:
        return inherited(self, **settings)

    taken = {name: value for name, value in keys.items() if name in config_class.taken_by_training()}
    entry = "{name}: {value.meaning} Default: {value.default!r}.".format
    training.__doc__ = "\n".join(
        [
            "Sets the training related configuration.",
            "",
            "Args:",
            *(f"    {entry(name=name, value=value)}" for name, value in taken.items()),
            "    settings: RLlib's own arguments of ``AlgorithmConfig.training()``.",
            "",
            "Returns:",
            "    This config.",
            "",
            "Raises:",
            "    ValueError: an argument is unknown; the message suggests the nearest name.",
        ]
    )
    others = [f"    - ``{entry(name=name, value=value)}" for name, value in keys.items() if name not in taken]
    others = [line.replace(":", "``:", 1) for line in others]
    config_class.__doc__ = "\n".join(
        [inspect.cleandoc(config_class.__doc__ or ""), "", "RLlib's other keys:", "", *others]
    )
    parameters = [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value.default)
            for name, value in taken.items()
        ),
        inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD),
    ]
    training.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    training.__qualname__ = f"{config_class.__qualname__}.training"
    config_class.training = training


def number(words: str, check: Callable[[Any], bool] = lambda value: True) -> Accepts:
    """Finite numbers, but no booleans."""
    return Accepts(words, lambda value: _is_number(value) and check(value))


def between(lowest: float, highest: float) -> Accepts:
    """Numbers in an interval, its ends included."""
    return number(f"a number from {lowest:,} to {highest:,}", lambda value: lowest <= value <= highest)


def whole(words: str, lowest: int, highest: int = 2**63 - 1) -> Accepts:
    """Whole numbers from ``lowest`` to ``highest``."""
    return number(words, lambda value: isinstance(value, (int, np.integer)) and bool(lowest <= value <= highest))


@dataclass(frozen=True)
class OneOf(Accepts):
    """Names."""

    names: tuple[str, ...] = ()

    def hint(self, value: Any) -> str:
        return nearest_hint(value, self.names)


class Custom(OneOf):
    """Names, or custom classes or functions, which ``module:name`` may stand for; ``check`` gets what it stands for."""

    def validate(self, name: str, value: Any) -> None:
        try:
            found = resolved(value)
        except ImportError as error:
            raise ValueError(f"{name} is {value!r}, which cannot be imported: {error}") from error
        if not self.check(found):
            raise ValueError(
                f"{name} is {self.words}; got {shown(value)}.{self.hint(value if found is value else found)}"
            )

    def hint(self, value: Any) -> str:
        if inspect.isabstract(value):
            return f" {value.__name__} lacks {', '.join(sorted(value.__abstractmethods__))}()."
        return super().hint(value) if isinstance(value, str) else f" It is {shown(value)}."


@dataclass(frozen=True)
class Options(Accepts):
    """A dict of options by name, each with what it accepts."""

    options: Mapping[str, Accepts]

    def validate(self, name: str, value: Any) -> None:
        super().validate(name, value)
        for option, given in value.items():
            if option not in self.options:
                hint = nearest_hint(option, self.options) or f" It has {', '.join(self.options)}."
                raise ValueError(f"{name}[{option!r}] is unknown.{hint}")
            self.options[option].validate(f"{name}[{option!r}]", given)


def options(**accepted: Accepts) -> Options:
    """A dict of these options."""
    return Options("a dict", lambda value: isinstance(value, dict), accepted)


def one_of(*names: str) -> OneOf:
    """One of some names."""
    words = f"one of {', '.join(map(repr, names))}"
    return OneOf(words, lambda value: isinstance(value, str) and value in names, names)


def entry_of(table: Mapping[str, type], base: type, *more: Any) -> Custom:
    """A name in a table, a custom class, also as ``module:name``, or one of ``more``."""
    words = f"one of {', '.join(map(repr, [*table, *more]))}, a subclass of {base.__name__}, or its 'module:name'"

    def check(value: Any) -> bool:
        if isinstance(value, type):
            return issubclass(value, base) and not inspect.isabstract(value)
        if any(value is other for other in more):
            return True
        return isinstance(value, str) and value in table

    return Custom(words, check, tuple(table))


FLAG = Accepts("True or False", lambda value: isinstance(value, bool))
DICT = Accepts(
    "a dict with names as keys", lambda value: isinstance(value, dict) and all(isinstance(name, str) for name in value)
)
ABOVE_0 = number("a number above 0", lambda value: value > 0)
AT_LEAST_0 = number("a number of at least 0", lambda value: value >= 0)
PROBABILITY = number("a probability in [0, 1]", lambda value: 0 <= value <= 1)
DECAY = number("a number of at least 0 and below 1", lambda value: 0 <= value < 1)
FRACTION = number("a number in [0, 1]", lambda value: 0 <= value <= 1)
COUNT = whole("a whole number above 0", 1)
COUNT_OR_0 = whole("a whole number of at least 0", 0)
SIZE = whole("a whole number from 1 to 8,192", 1, 8192)  # of a layer; more takes all memory at once
COEFFICIENT = between(0, 1_000_000)  # with more, float32 overflows
RATE = number("a number above 0 and at most 1", lambda value: 0 < value <= 1)


def _is_schedule(value: Any) -> bool:
    """``[[env steps, rate], ...]`` with rising steps from 0 on."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    if not all(isinstance(point, (list, tuple)) and len(point) == 2 and all(map(_is_number, point)) for point in value):
        return False
    steps, rates = zip(*value, strict=True)
    return steps[0] == 0 and all(a < b for a, b in pairwise(steps)) and all(0 <= rate <= 1 for rate in rates)


LEARNING_RATE = Accepts(
    "a number above 0 and at most 1, or a schedule [[0, rate], [env steps, rate], ...]",
    lambda value: RATE.check(value) or _is_schedule(value),
)


# What torch offers beside numbers and is of use: the others want a GPU, or turn learning round.
_OPTIMIZER_FLAGS = ("amsgrad", "centered", "decoupled_weight_decay", "foreach")


def _is_optimizer(value: Any) -> bool:
    kind, arguments = (value.get("type"), value) if isinstance(value, dict) else (value, {})
    if not isinstance(kind, str) or kind not in OPTIMIZERS:
        return False
    for name, argument in arguments.items():
        numbers = argument if isinstance(argument, (tuple, list)) else [argument]
        if name != "type" and not (
            FLAG.check(argument) if name in _OPTIMIZER_FLAGS else all(map(FRACTION.check, numbers))
        ):
            return False
    try:
        make_optimizer(value, [torch.nn.Parameter(torch.zeros(1))], 1e-3)
    except (TypeError, ValueError):
        return False
    # An eps that float32 takes for 0 divides 0 by 0 where a gradient is 0.
    return arguments.get("alpha", 0.0) < 1 and bool(np.float32(arguments.get("eps", 1e-8)) > 0)


OPTIMIZER = Accepts(
    "'rmsprop', 'adam', or a dict with one of these as its type, and further arguments of torch's class (lr has a key of its own; "
    "eps is above 0)",
    _is_optimizer,
)


def nearest_hint(value: Any, names: Collection[str]) -> str:
    """A hint at the nearest name, with a space before it; empty where none is near."""
    near = nearest(value, names) if isinstance(value, str) else []
    return f" Did you mean {near[0]!r}?" if near else ""


def shown(value: Any, most: int = 100) -> str:
    """A value, or what an error says, in a message: at most a line of it."""
    text = " ".join((str(value) if isinstance(value, Exception) else repr(value)).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def cause(error: Exception) -> str:
    """An error's type and message, in a line."""
    return f"{type(error).__name__}: {shown(error, 200)}"


def same(value: Any, other: Any) -> bool:
    """Whether two values of a config are the same, whatever they are."""
    try:
        return value is other or (type(value) is type(other) and bool(value == other))
    except (TypeError, ValueError):
        return False


def _is_number(value: Any) -> bool:
    """A real number, finite, and if it is whole of no more than 64 bits."""
    if isinstance(value, (int, np.integer)):
        return not isinstance(value, bool) and -(2**63) <= int(value) < 2**63
    return isinstance(value, (float, np.floating)) and math.isfinite(value)
