"""mkdocs hooks: add the repository's files that pages link to, and an API reference page for each package.

The site has the repository's layout without the folder docs/, so that a link that works on the one works on the other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
FIRST = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")  # pages outside docs/ that are in the navigation
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s#]+")  # the path of a relative link


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ and the pages of reference."""
    for path in sorted(_outside()):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for name in _packages():
        files.append(File.generated(config, f"reference/{name}.md", content=f"# {name}\n\n::: {name}\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite relative links to the paths that their targets have in the site."""
    path = page.file.src_uri if page.file.generated_by else f"docs/{page.file.src_uri}"

    def moved(link: re.Match[str]) -> str:
        target = _target(path, link[0]).removeprefix("docs/")
        return os.path.relpath(target, os.path.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)


def _outside() -> set[str]:
    """The files outside docs/ that links lead to, as paths in the repository."""
    left = [*FIRST, *(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))]
    found: set[str] = set()
    while left:
        path = left.pop()
        if path not in found and (ROOT / path).is_file():
            found.add(path)
            left += [_target(path, link) for link in LINK.findall(_text(path))]
    return {path for path in found if not path.startswith("docs/")}


def _text(path: str) -> str:
    return (ROOT / path).read_text("utf-8") if path.endswith(".md") else ""


def _target(path: str, link: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(path), link))


def _packages() -> Iterator[str]:
    """The packages of instant3d and data_prep, and the modules that stand beside instant3d's."""
    for folder in (ROOT / "src" / "instant3d", ROOT / "data_prep"):
        yield from (f"{folder.name}.{path.parent.name}" for path in sorted(folder.glob("*/__init__.py")))
    yield from ("instant3d.cameras", "instant3d.views")
