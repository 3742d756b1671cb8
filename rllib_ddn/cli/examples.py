"""What `rllib example` does: the tuned examples that come with the package."""

from __future__ import annotations

from pathlib import Path

import rllib_ddn
from rllib_ddn.cli.options import fail
from rllib_ddn.names import did_you_mean

FOLDER = Path(rllib_ddn.__file__).parent / "tuned_examples"


def names() -> list[str]:
    """The examples: their files' paths in the folder, without .yaml."""
    found = (path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("**/*.yaml"))
    return sorted(found, key=lambda name: ("/" in name, name))


def file_of(name: str) -> Path:
    """An example's file."""
    known = names()
    if name.removesuffix(".yaml") not in known:
        hint = did_you_mean(name, known, count=3, otherwise="`rllib example list` shows all.")
        fail(f"there is no example {name!r}; {hint}")
    return FOLDER / f"{name.removesuffix('.yaml')}.yaml"


def summary(name: str) -> str:
    """The first sentence of an example's comment."""
    comment: list[str] = []
    for line in file_of(name).read_text().splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment).split(". ")[0].rstrip(".:")
