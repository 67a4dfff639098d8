"""``python -m implicit_bias.report``."""

import sys

from implicit_bias.report import main

if __name__ == "__main__":
    sys.exit(main())
