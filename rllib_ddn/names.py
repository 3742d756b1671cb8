"""Names: which known ones are like an unknown one, and what a name in a module stands for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

OWN_FILES = "A file of your own is found in the folder that you stand in, and in those of PYTHONPATH."


def imported(module: str, name: str) -> Any:
    """What a module calls by a name.

    Raises:
        ImportError: there is no such module or name; the message tells where modules are found, for one that was not.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        lost = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        raise ImportError(f"{error}. {OWN_FILES}" if lost else f"{error}.") from error


def nearest(name: object, names: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names that are most like a name, whatever the case, the nearest first; none where none is like it.

    Args:
        count: how many at most.
        cutoff: how much alike they are at least, from 0 to 1.
    """
    by_lower = {other.lower(): other for other in sorted(names)}
    return [by_lower[other] for other in difflib.get_close_matches(str(name).lower(), by_lower, n=count, cutoff=cutoff)]


def did_you_mean(
    name: object, names: Iterable[str], shown: Iterable[str] | None = None, count: int = 1, otherwise: str | None = None
) -> str:
    """The rest of a sentence on an unknown name: which are like it, or which there are.

    Args:
        names: all known ones.
        shown: those to tell where none is like it; by default all.
        count: how many to tell at most of those that are like it.
        otherwise: what to say where none is like it, in place of those there are.
    """
    names = sorted(names)
    near = nearest(name, names, count)
    if near:
        return f"did you mean {', '.join(map(repr, near))}?"
    return otherwise or f"there are {', '.join(names if shown is None else shown)}."
