"""Add the pages from outside docs/ to the site, and turn links to files that the site lacks into plain text."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ADDED = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
LINK = re.compile(r"\[([^\]]+)\]\((\.\./|docs/)?([^):#]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside docs/."""
    for name in ADDED:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Return a page's text with links that hold within the site."""

    def link(match: re.Match[str]) -> str:
        words, _, target, place = match.groups()
        return f"[{words}]({target}{place or ''})" if files.get_file_from_path(target) else words

    return LINK.sub(link, markdown)
