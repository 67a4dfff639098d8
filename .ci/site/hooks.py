"""What the site needs beside docs/: README.md as its start page, the results that pages link to, and a reference by package."""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
#: Pages of the reference, and the modules that each is made from: all of a package, or some.
REFERENCE = {
    "functions": [
        "implicit_bias.run.run",
        "implicit_bias.analysis.judging.judge",
        "implicit_bias.analysis.optimal_margins.margins",
    ],
    "norms": ["implicit_bias.norms"],
    "optimizers": ["implicit_bias.optimizers"],
    "models": ["implicit_bias.losses", "implicit_bias.models", "implicit_bias.schedules"],
    "datasets": ["implicit_bias.datasets"],
    "measures": ["implicit_bias.measures"],
    "solvers": ["implicit_bias.solvers"],
}
#: Pages whose tables take the place of the list of contents.
WIDE = ("figures.md", "papers.md")
_OUTSIDE = re.compile(r'(\]\(|src=")(?:\.\./)?((?:results/|LICENSE|CITATION\.cff|CONTRIBUTING\.md|CHANGELOG\.md)[^)#"]*)')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the start page, the pages of the reference, and the files outside docs/ that pages link to."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    for page, names in REFERENCE.items():
        files.append(File.generated(config, f"reference/{page}.md", content=_reference(page, names)))
    texts = [readme, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))]
    for name in sorted({found for text in texts for _, found in _OUTSIDE.findall(text)}):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links to what lies outside docs/ in the repository lead to where it lies on the site."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]
    return _OUTSIDE.sub(r"\1\2", markdown).replace("](../README.md", "](index.md")


def _reference(title: str, names: list[str]) -> str:
    modules = [module for name in names for module in _modules(name)]
    return "\n\n".join([f"# {title.capitalize()}", *(f"::: {module}" for module in modules)]) + "\n"


def _modules(name: str) -> list[str]:
    """The public modules of a package, in alphabetical order; a name that is no package stands for itself."""
    package, _, last = name.rpartition(".")
    if not (ROOT / name.replace(".", "/")).is_dir():
        return [f"{package}.{last}"]
    found = pkgutil.walk_packages(import_module(name).__path__, f"{name}.")
    return [module.name for module in found if not module.ispkg and not module.name.rpartition(".")[2].startswith("_")]
