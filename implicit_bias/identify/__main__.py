"""``python -m implicit_bias.identify``."""

import sys

from implicit_bias.identify.command import main

if __name__ == "__main__":
    sys.exit(main())
