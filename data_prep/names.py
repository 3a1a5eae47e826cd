"""`python -m data_prep.names`: see `captions.names`."""

import sys

from .captions.names import main

if __name__ == "__main__":
    sys.exit(main())
