"""``python -m implicit_bias.bench``."""

import sys

from implicit_bias.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
