"""Names that users type: custom classes as ``module:name``, and suggestions at unknown names."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from typing import Any

OWN_FILES = "Custom modules are looked for in the working directory and in the folders of PYTHONPATH."


def is_custom(name: Any) -> bool:
    """Whether a name has the form ``module:name`` of a custom class or function."""
    return isinstance(name, str) and re.fullmatch(r"[\w.]+:\w+", name) is not None


def imported(name: str) -> Any:
    """Imports the class or function that ``module:name`` or ``module.name`` stands for.

    Raises:
        ImportError: there is no such module or name, or importing the module fails; the message is one line.
    """
    module, _, attribute = name.replace(":", ".").rpartition(".")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        lost = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        raise ImportError(f"{error}. {OWN_FILES}" if lost else f"{error}.") from error
    except Exception as error:
        raise ImportError(f"the import of {module} fails: {type(error).__name__}: {error}") from error
    if not hasattr(found, attribute):
        raise ImportError(f"module {module!r} has no attribute {attribute!r}.")
    return getattr(found, attribute)


def resolved(choice: Any) -> Any:
    """A config's choice, with ``module:name`` imported.

    Raises:
        ImportError: see :func:`imported`.
    """
    return imported(choice) if is_custom(choice) else choice


def nearest(name: object, names: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names that are most similar to a name, ignoring case, the most similar first.

    Args:
        count: the largest number of names returned.
        cutoff: the smallest similarity, from 0 to 1.
    """
    by_lower = {other.lower(): other for other in sorted(names)}
    return [by_lower[other] for other in difflib.get_close_matches(str(name).lower(), by_lower, n=count, cutoff=cutoff)]


def did_you_mean(
    name: object, names: Iterable[str], shown: Iterable[str] | None = None, count: int = 1, otherwise: str | None = None
) -> str:
    """The end of a message about an unknown name: similar names, or all.

    Args:
        names: all known ones.
        shown: the names to list where none is similar; by default all.
        count: the largest number of similar names.
        otherwise: the text where none is similar, instead of the list.
    """
    names = sorted(names)
    near = nearest(name, names, count)
    if near:
        return f"did you mean {', '.join(map(repr, near))}?"
    return otherwise or f"there are {', '.join(names if shown is None else shown)}."
