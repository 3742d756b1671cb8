"""What README, CONTRIBUTING and docs/ show: their blocks, commands and links."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<before>[^\n]*)\n```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (?P<why>.+) -->")
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


@dataclass
class Block:
    """A fenced block.

    Attributes:
        page, line: where it begins.
        language: after the fence.
        text: what is in it.
        why_not: why it is not run, from a comment ``<!-- not run: WHY -->`` in the line before it; else "".
    """

    page: Path
    line: int
    language: str
    text: str
    why_not: str

    def __str__(self):
        return f"{self.page.name}:{self.line}"


def blocks(page, *languages):
    """A page's blocks of some languages."""
    text = "\n" + page.read_text()
    found = []
    for match in FENCE.finditer(text):
        if match["language"] in languages or not languages:
            why = NOT_RUN.fullmatch(match["before"])
            line = text.count("\n", 0, match.start("text"))
            found.append(Block(page, line, match["language"], match["text"], why["why"] if why else ""))
    return found


def commands(block):
    """The commands of a block of bash, each a list of words; comments left out, ``&&`` taken apart."""
    found, pending = [], ""
    for line in block.text.splitlines(keepends=True):
        pending += line
        if line.endswith("\\\n"):
            pending = pending.removesuffix("\\\n")
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation goes on in the next line
            continue
        while "&&" in words:
            at = words.index("&&")
            found.append(words[:at])
            words = words[at + 1 :]
        found += [words] if words else []
        pending = ""
    assert not pending, f"{block} ends within a command: {pending}"
    return found


def links(page):
    """Targets of a page's links and pictures."""
    return [
        match["target"] for match in LINK.finditer(re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S))
    ]


def anchors(page):
    """What a link to a heading of a page may name."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
