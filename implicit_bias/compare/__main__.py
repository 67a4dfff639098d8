"""``python -m implicit_bias.compare``."""

import sys

from implicit_bias.compare.command import main

if __name__ == "__main__":
    sys.exit(main())
