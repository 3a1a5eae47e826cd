"""`python -m data_prep.procedural`: see `generate`."""

import sys

from .generate import main

if __name__ == "__main__":
    sys.exit(main())
