"""Kinds of values that a config key accepts: each has a description for error messages and docs, and a check."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from rllib_ddn.learning.optimizers import OPTIMIZERS, make_optimizer
from rllib_ddn.names import nearest, resolved


@dataclass(frozen=True)
class Accepts:
    """What a key accepts.

    Attributes:
        words: the description, which completes "the key is ...".
        check: whether a value is accepted.
        names: accepted names, of which a message suggests the nearest.
    """

    words: str
    check: Callable[[Any], bool]
    names: tuple[str, ...] = ()

    def or_none(self) -> Accepts:
        return Accepts(f"{self.words}, or None", lambda value: value is None or self.check(value))

    def validate(self, name: str, value: Any) -> None:
        """Checks a value.

        Args:
            name: the key, for the message.
            value: the value of the key.

        Raises:
            ValueError: the value is not accepted; the message names the key, the value and what is accepted.
        """
        if not self.check(value):
            raise ValueError(f"{name} is {self.words}; got {shown(value)}.{self.hint(value)}")

    def hint(self, value: Any) -> str:
        """More about a value that is not accepted, with a leading space; may be empty."""
        return nearest_hint(value, self.names)


class Custom(Accepts):
    """Names, and custom classes or functions or their ``module:name``. ``check`` gets the imported object."""

    def validate(self, name: str, value: Any) -> None:
        try:
            found = resolved(value)
        except ImportError as error:
            raise ValueError(f"{name} is {value!r}, which cannot be imported: {error}") from error
        if not self.check(found):
            hint = self.hint(value if found is value else found)
            raise ValueError(f"{name} is {self.words}; got {shown(value)}.{hint}")

    def hint(self, value: Any) -> str:
        if inspect.isabstract(value):
            return f" {value.__name__} lacks {', '.join(sorted(value.__abstractmethods__))}()."
        return super().hint(value) if isinstance(value, str) else f" It is {shown(value)}."


@dataclass(frozen=True)
class Options(Accepts):
    """A dict with these keys, any of which may be left out."""

    options: Mapping[str, Accepts] = field(default_factory=dict)

    def validate(self, name: str, value: Any) -> None:
        super().validate(name, value)
        for option, given in value.items():
            if option not in self.options:
                hint = nearest_hint(option, self.options) or f" It has {', '.join(self.options)}."
                raise ValueError(f"{name}[{option!r}] is unknown.{hint}")
            self.options[option].validate(f"{name}[{option!r}]", given)


def number(words: str, check: Callable[[Any], bool] = lambda value: True) -> Accepts:
    """Finite numbers, but no booleans."""
    return Accepts(words, lambda value: _is_number(value) and check(value))


def between(lowest: float, highest: float) -> Accepts:
    """Numbers in a closed interval."""
    return number(f"a number from {lowest:,} to {highest:,}", lambda value: lowest <= value <= highest)


def integer(words: str, lowest: int, highest: int = 2**63 - 1) -> Accepts:
    """Integers in a closed interval."""
    return number(words, lambda value: isinstance(value, (int, np.integer)) and bool(lowest <= value <= highest))


def options(**accepted: Accepts) -> Options:
    """A dict with these keys."""
    return Options("a dict", lambda value: isinstance(value, dict), options=accepted)


def one_of(*names: str) -> Accepts:
    """One of some names."""
    words = f"one of {', '.join(map(repr, names))}"
    return Accepts(words, lambda value: isinstance(value, str) and value in names, names)


def entry_of(table: Mapping[str, type], base: type) -> Custom:
    """A name in a table, a subclass of ``base`` without abstract methods, or the subclass's ``module:name``."""

    def check(value: Any) -> bool:
        return is_subclass(value, base) or (isinstance(value, str) and value in table)

    return Custom(
        f"one of {', '.join(map(repr, table))}, a subclass of {base.__name__}, or its 'module:name'",
        check,
        tuple(table),
    )


def is_subclass(value: Any, base: type) -> bool:
    """Whether a value is a subclass of ``base`` that can be built."""
    return isinstance(value, type) and issubclass(value, base) and not inspect.isabstract(value)


def subclass_of(base: type) -> Accepts:
    """A subclass of ``base``."""
    return Accepts(f"a subclass of {base.__name__}", lambda value: is_subclass(value, base))


def only(value: Any, why: str = "") -> Accepts:
    """One value; ``why`` completes its description."""
    return Accepts(f"{value!r}{why}", lambda given: same(given, value))


def _is_number(value: Any) -> bool:
    """A real number, finite, and if it is an integer of no more than 64 bits."""
    if isinstance(value, (int, np.integer)):
        return not isinstance(value, bool) and -(2**63) <= int(value) < 2**63
    return isinstance(value, (float, np.floating)) and math.isfinite(value)


FLAG = Accepts("True or False", lambda value: isinstance(value, bool))
DICT = Accepts(
    "a dict with strings as keys",
    lambda value: isinstance(value, dict) and all(isinstance(name, str) for name in value),
)
POSITIVE = number("a positive number", lambda value: value > 0)
NON_NEGATIVE = number("a non-negative number", lambda value: value >= 0)
PROBABILITY = number("a probability in [0, 1]", lambda value: 0 <= value <= 1)
FRACTION = number("a number in [0, 1]", lambda value: 0 <= value <= 1)
DECAY = number("a number in [0, 1)", lambda value: 0 <= value < 1)
RATE = number("a number in (0, 1]", lambda value: 0 < value <= 1)
COEFFICIENT = between(0, 1_000_000)  # with more, float32 overflows
COUNT = integer("a positive integer", 1)
COUNT_OR_0 = integer("a non-negative integer", 0)
SIZE = integer("an integer from 1 to 8,192", 1, 8192)  # of a layer; more takes all memory at once


def _is_schedule(value: Any) -> bool:
    """``[[env steps, rate], ...]`` with rising steps from 0 on."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    if not all(isinstance(point, (list, tuple)) and len(point) == 2 and all(map(_is_number, point)) for point in value):
        return False
    steps, rates = zip(*value, strict=True)
    return steps[0] == 0 and all(a < b for a, b in pairwise(steps)) and all(0 <= rate <= 1 for rate in rates)


LEARNING_RATE = Accepts(
    f"{RATE.words}, or a schedule [[0, rate], [env steps, rate], ...]",
    lambda value: RATE.check(value) or _is_schedule(value),
)

# The flags of torch's optimizers that are of use: the others want a GPU, or maximize.
_OPTIMIZER_FLAGS = ("amsgrad", "centered", "decoupled_weight_decay", "foreach")


def _is_optimizer(value: Any) -> bool:
    if isinstance(value, str):
        return value in OPTIMIZERS  # without making one, which imports torch._dynamo: 2 s of CPU
    arguments = value if isinstance(value, dict) else {}
    if not isinstance(kind := arguments.get("type"), str) or kind not in OPTIMIZERS:
        return False
    for name, argument in arguments.items():
        numbers = argument if isinstance(argument, (tuple, list)) else [argument]
        accepted = FLAG.check(argument) if name in _OPTIMIZER_FLAGS else all(map(FRACTION.check, numbers))
        if name != "type" and not accepted:
            return False
    try:
        make_optimizer(value, [torch.nn.Parameter(torch.zeros(1))], 1e-3)
    except (TypeError, ValueError):
        return False
    # An eps that float32 takes for 0 divides 0 by 0 where a gradient is 0.
    return arguments.get("alpha", 0.0) < 1 and bool(np.float32(arguments.get("eps", 1e-8)) > 0)


OPTIMIZER = Accepts(
    "'rmsprop', 'adam', or a dict with one of these as its type, and further arguments of torch's class (lr is a key "
    "of its own; eps is positive)",
    _is_optimizer,
)


def nearest_hint(value: Any, names: Collection[str]) -> str:
    """A hint at the nearest name, with a leading space; empty where none is near."""
    near = nearest(value, names) if isinstance(value, str) else []
    return f" Did you mean {near[0]!r}?" if near else ""


def shown(value: Any, most: int = 100) -> str:
    """A value, or an error's message, in at most ``most`` characters of one line."""
    text = " ".join((str(value) if isinstance(value, Exception) else repr(value)).split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def cause(error: Exception) -> str:
    """An error's type and message, in one line."""
    return f"{type(error).__name__}: {shown(error, 200)}"


def same(value: Any, other: Any) -> bool:
    """Whether two values of a config are equal, whatever their types."""
    try:
        return value is other or (type(value) is type(other) and bool(value == other))
    except (TypeError, ValueError):
        return False
