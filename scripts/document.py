"""Writes the tables of docs/configuration.md from the declaration of the config keys; a test keeps them in step.

python scripts/document.py
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_ddn import DDN, HOSTS, PEERS, DDNConfig, ValueDecomposition, ValueDecompositionConfig
from rllib_ddn.rllib.keys import Key, declared
from rllib_ddn.rllib.rllib_keys import ACCEPTED

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")


def documented(page: str) -> str:
    """The page with its tables, each between ``<!-- table NAME -->`` and ``<!-- end -->``, made anew."""
    for name, table in tables().items():
        start, end = f"<!-- table {name} -->\n", "<!-- end -->"
        before, rest = page.split(start)
        page = before + start + table + rest[rest.index(end) :]
    return page


def tables() -> dict[str, str]:
    """All tables by name, in Markdown."""
    shared, taken = declared(ValueDecompositionConfig), ValueDecompositionConfig.taken_by_training()
    rllibs = vars(AlgorithmConfig())
    return {
        "shared": _keys({name: key for name, key in shared.items() if name not in rllibs}),
        "rllib's training": _keys({name: key for name, key in shared.items() if name in rllibs and name in taken}),
        "rllib's others": _keys({name: key for name, key in shared.items() if name not in taken}),
        "as in rllib": _table(
            ("key", "accepts"),
            [(f"`{name.removesuffix('_str')}`", accepts.words) for name, accepts in ACCEPTED.items()],
        ),
        "ddn": _keys({name: key for name, key in declared(DDNConfig).items() if name not in shared}),
        "defaults": _defaults(),
    }


def _keys(keys: Mapping[str, Key]) -> str:
    rows = []
    for name, key in keys.items():
        meaning = ROLE.sub(r"`\1`", key.meaning).replace("``", "`")
        rows.append((f"`{name}`", f"`{key.default!r}`", key.accepts.words, meaning))
    return _table(("key", "default", "accepts", "meaning"), rows)


def _defaults() -> str:
    rows = []
    algorithms: tuple[type[ValueDecomposition], ...] = (*HOSTS, DDN, *PEERS)
    for algorithm in algorithms:
        config = type(algorithm.get_default_config())
        parent = config.__mro__[1]
        base = {name: key.default for name, key in declared(parent).items()}
        changed = {
            name: key.default for name, key in declared(config).items() if key.default != base.get(name, key.default)
        }
        told = ", ".join(f"`{name}: {value!r}`" for name, value in changed.items())
        rows.append((f'`"{algorithm.__name__}"`', f"`{config.__name__}`", f"`{parent.__name__}`", told))
    return _table(("trainable", "config", "has the keys and defaults of", "but"), rows)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(documented(PAGE.read_text()))
