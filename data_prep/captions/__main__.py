"""`python -m data_prep.captions`: see `captions`."""

import sys

from .captions import main

if __name__ == "__main__":
    sys.exit(main())
