"""MkDocs hooks: copy figures from outside of docs/ into the site, drop links to source files, add the search's shim."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = r"\((?P<up>(?:\.\./)+)(?P<path>[^)#]+)\)"
PICTURE = re.compile(r"!\[(?P<text>[^\]]*)\]" + OUTSIDE)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]" + OUTSIDE)


def on_files(files: Files, config: Any) -> Files:
    """Adds the shim and all figures in tuned_examples/results, the latter as ``repository/PATH``."""
    for path in sorted((ROOT / "tuned_examples" / "results").glob("*.png")):
        files.append(File.generated(config, f"repository/{path.relative_to(ROOT)}", abs_src_path=str(path)))
    shim = str(Path(__file__).with_name("iframe-worker.js"))
    files.append(File.generated(config, "assets/iframe-worker.js", abs_src_path=shim))
    return files


def on_page_markdown(markdown: str, page: Page, **context: Any) -> str:
    """Redirects figures outside of docs/ to their copies, and reduces links outside of it to their text."""
    depth = page.file.src_uri.count("/")

    def outside(match: re.Match[str]) -> bool:
        return match["up"].count("../") > depth

    def picture(match: re.Match[str]) -> str:
        return f"![{match['text']}]({'../' * depth}repository/{match['path']})" if outside(match) else match[0]

    return LINK.sub(lambda match: match["text"] if outside(match) else match[0], PICTURE.sub(picture, markdown))
