"""Writes the tables of docs/configuration.md and docs/from_pymarl.md from the code; a test keeps them in step.

python scripts/document.py
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_ddn import DDN, HOSTS, PEERS, DDNConfig, ValueDecomposition, ValueDecompositionConfig
from rllib_ddn.rllib.from_pymarl import TABLE
from rllib_ddn.rllib.ranges import RANGES

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("configuration.md", "from_pymarl.md")
ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")


def meanings(described: object) -> dict[str, str]:
    """What the ``Args`` or ``Attributes`` of a docstring say, by name."""
    section = re.split(r"\n(?:Args|Attributes):\n", inspect.getdoc(described) or "")[-1].split("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def documented(page: str) -> str:
    """The page with its tables, each between ``<!-- table NAME -->`` and ``<!-- end -->``, written from scratch."""
    for name, table in tables().items():
        start, end = f"<!-- table {name} -->\n", "<!-- end -->"
        if start in page:
            before, rest = page.split(start)
            page = before + start + table + rest[rest.index(end) :]
    return page


def tables() -> dict[str, str]:
    """All tables by name, in Markdown."""
    shared, others = meanings(ValueDecompositionConfig.training), meanings(ValueDecompositionConfig)
    rllibs, ours = vars(AlgorithmConfig()), ValueDecompositionConfig.keys_with_defaults()
    kept = [name for name in RANGES if name in rllibs and name not in ours]
    return {
        "shared": _keys(ValueDecompositionConfig, {k: v for k, v in shared.items() if k in ours and k not in rllibs}),
        "rllib's training": _keys(
            ValueDecompositionConfig, {k: v for k, v in shared.items() if k in ours and k in rllibs}
        ),
        "rllib's others": _keys(ValueDecompositionConfig, others),
        "as in rllib": _table(
            ("key", "accepts"), [(f"`{name.removesuffix('_str')}`", RANGES[name].words) for name in kept]
        ),
        "ddn": _keys(DDNConfig, meanings(DDNConfig.training)),
        "defaults": _defaults(),
        "from pymarl": TABLE,
    }


def _keys(config: type[ValueDecompositionConfig], entries: dict[str, str]) -> str:
    rows = []
    for name, text in entries.items():
        meaning = ROLE.sub(r"`\1`", text.split(" Default: ")[0]).replace("``", "`")
        rows.append((f"`{name}`", f"`{getattr(config, name)!r}`", RANGES[name].words, meaning))
    return _table(("key", "default", "accepts", "meaning"), rows)


def _defaults() -> str:
    rows = []
    algorithms: tuple[type[ValueDecomposition], ...] = (*HOSTS, DDN, *PEERS)
    for algorithm in algorithms:
        config = algorithm.config_class
        parent: type[ValueDecompositionConfig] = config.__mro__[1]
        changed = {
            name: getattr(config, name)
            for name in parent.keys_with_defaults()
            if getattr(config, name) != getattr(parent, name)
        }
        listed = ", ".join(f"`{name}: {value!r}`" for name, value in changed.items())
        rows.append((f'`"{algorithm.__name__}"`', f"`{config.__name__}`", f"`{parent.__name__}`", listed))
    return _table(("trainable", "config", "has the keys and defaults of", "but"), rows)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    for name in PAGES:
        page = DOCS / name
        page.write_text(documented(page.read_text()))
