"""`python -m data_prep.variants`: see `procedural.variants`."""

import sys

from .procedural.variants import main

if __name__ == "__main__":
    sys.exit(main())
