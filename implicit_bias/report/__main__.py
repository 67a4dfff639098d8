"""``python -m implicit_bias.report``."""

import sys

from implicit_bias.report.command import main

if __name__ == "__main__":
    sys.exit(main())
