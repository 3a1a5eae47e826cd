"""`python -m data_prep.render`: see `rendering.render`."""

import sys

from .rendering.render import main

if __name__ == "__main__":
    sys.exit(main())
