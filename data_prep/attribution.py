"""`python -m data_prep.attribution`: see `manifests.attribution`."""

import sys

from .manifests.attribution import main

if __name__ == "__main__":
    sys.exit(main())
