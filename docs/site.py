"""The documentation as a site: `make docs` reads this file beside mkdocs.yml.

README, changelog and the like lie outside docs/ and are pages of it all the same; the reference of the library is made
from the public names and their docstrings.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import sentinode

ROOT = Path(__file__).parents[1]
BROUGHT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE",
    "CITATION.cff": "CITATION.cff",
    "benchmarks/README.md": "benchmarks.md",
}
_LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for outside, inside in BROUGHT.items():
        files.append(File.generated(config, inside, content=(ROOT / outside).read_text(encoding="utf-8")))
    reference = ["# The library", "What `import sentinode` offers. Each name is imported when it is first asked for."]
    reference += [f"::: sentinode.{name}" for name in sentinode.__all__]
    files.append(File.generated(config, "library.md", content="\n\n".join(reference)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links as they are right in the repository, made right in the site."""
    homes = {inside: outside for outside, inside in BROUGHT.items()}
    here = posixpath.dirname(homes.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def of_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, link[2]))
        return f"{link[1]}{BROUGHT.get(target, target.removeprefix('docs/'))}{link[3]}"

    return _LINK.sub(of_site, markdown)
