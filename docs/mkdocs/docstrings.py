"""Makes Markdown, which mkdocstrings reads, of docstrings: roles such as ``:class:`rllib_ddn.Mixer``` become code, and
what follows ``.. code-block::`` is indented already."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([^`]+)`")
CODE_BLOCK = re.compile(r"^ *\.\. code-block:: \w+\n", re.MULTILINE)


class Docstrings(Extension):
    """Rewrites docstrings when they are read."""

    def on_instance(self, *, obj: Object, **context: Any) -> None:
        if obj.docstring:
            obj.docstring.value = CODE_BLOCK.sub("", ROLE.sub(r"`\1`", obj.docstring.value))
