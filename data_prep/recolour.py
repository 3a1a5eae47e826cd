"""`python -m data_prep.recolour`: see `captions.recolour`."""

import sys

from .captions.recolour import main

if __name__ == "__main__":
    sys.exit(main())
