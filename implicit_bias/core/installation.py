"""Which installation of the package this is: its version, and the folder that it is imported from."""

from pathlib import Path

#: The project's version, in this place alone: the build reads it here.
VERSION = "0.1.0"

#: What sources are called: Python, C and CUDA.
SOURCES = ("*.py", "*.[ch]", "*.cu")

#: The folder that holds the package, which a process of its own needs on its path.
PARENT = Path(__file__).resolve().parents[2]


def sources_below(root: Path) -> list[Path]:
    """The files of the package at ``root`` that its numbers are made by."""
    return [path for pattern in SOURCES for path in sorted(root.rglob(pattern))]


def version() -> str:
    """The version of the package that is imported, whether it was installed or not."""
    return VERSION
