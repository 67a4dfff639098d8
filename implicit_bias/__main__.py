"""``python -m implicit_bias``, and the installed command ``implicit-bias``: :mod:`implicit_bias.run`, and alone its help."""

import sys
from collections.abc import Sequence

from implicit_bias.run import main as run


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; without one, print the help. Returns the exit code."""
    return run((sys.argv[1:] if argv is None else argv) or ["--help"])


if __name__ == "__main__":
    sys.exit(main())
