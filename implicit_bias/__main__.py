"""``python -m implicit_bias`` is ``python -m implicit_bias.run``."""

import sys

from implicit_bias.run import main

if __name__ == "__main__":
    sys.exit(main())
