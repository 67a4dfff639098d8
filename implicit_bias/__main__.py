"""``python -m implicit_bias``, and the installed command ``implicit-bias``: :mod:`implicit_bias.run`, and alone an overview."""

import sys
from collections.abc import Sequence

from implicit_bias.cli.exit_codes import DONE
from implicit_bias.cli.streams import unharmed_by_output
from implicit_bias.run import main as run


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; without one, print what there is. Returns the exit code."""
    given = sys.argv[1:] if argv is None else argv
    return run(given) if given else _overview(["--help"])  # a reader who closes the pipe early loses nothing, as of the help


@unharmed_by_output
def _overview(argv: Sequence[str] | None = None) -> int:  # noqa: ARG001 - it has no arguments, and is called as commands are
    from implicit_bias.config.help import overview_text

    sys.stdout.write(f"{overview_text()}\n")
    return DONE


if __name__ == "__main__":
    sys.exit(main())
