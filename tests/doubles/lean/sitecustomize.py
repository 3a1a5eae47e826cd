"""A Python without some packages: on PYTHONPATH, this hides them from it and from every Python that it starts.

WITHOUT names them, as they are imported, between commas. They are neither found nor listed as installed.
"""

import os
import re
import sys
from importlib.machinery import PathFinder
from importlib.metadata import DistributionFinder

DISTRIBUTIONS = {"scikit_learn": "sklearn", "opencv_python_headless": "cv2"}  # whose names are not their packages'
HIDDEN = set(os.environ.get("WITHOUT", "").split(","))


class Lean(PathFinder):
    """Finds on sys.path what is not hidden."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname.partition(".")[0] in HIDDEN else super().find_spec(fullname, path, target)

    @classmethod
    def find_distributions(cls, context=DistributionFinder.Context()):  # noqa: B008
        name = re.sub(r"[-_.]+", "_", context.name or "").lower()
        return iter(()) if DISTRIBUTIONS.get(name, name) in HIDDEN else super().find_distributions(context)


sys.meta_path[sys.meta_path.index(PathFinder)] = Lean
