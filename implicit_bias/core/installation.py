"""Which installation of the package this is: its version, and the folder that it is imported from."""

from functools import cache
from importlib import metadata
from pathlib import Path

#: The folder that holds the package, which a process of its own needs on its path.
PARENT = Path(__file__).resolve().parents[2]


@cache
def version() -> str:
    """The version that was installed; ``0+unknown`` where the package is run without having been installed."""
    try:
        return metadata.version("implicit-bias")
    except metadata.PackageNotFoundError:
        return "0+unknown"
