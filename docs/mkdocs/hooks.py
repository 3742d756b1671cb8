"""Lets pages point at files of the repository, as plain files do: pictures are copied into the site, and links to code
become the code's path."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PICTURE = re.compile(r"!\[(?P<text>[^\]]*)\]\(\.\./(?P<path>[^)]+)\)")
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\(\.\./(?P<path>[^)#]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pictures that lie outside of docs/ to the site, under ``repository/``."""
    pages = [Path(file.abs_src_path).read_text() for file in files.documentation_pages() if file.abs_src_path]
    for path in sorted({match["path"] for page in pages for match in PICTURE.finditer(page)}):
        files.append(File.generated(config, f"repository/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **context: Any) -> str:
    """Points pictures at their copies, and takes the links off what is not in the site."""
    return LINK.sub(r"\g<text>", PICTURE.sub(r"![\g<text>](repository/\g<path>)", markdown))
