"""Everyday objects assembled from simple solids."""

from .figures import FIGURES
from .furniture import FURNITURE
from .kitchen import KITCHEN
from .plants import PLANTS
from .street import STREET
from .treasure import TREASURE
from .vehicles import VEHICLES

# The order decides which thing a seed builds: new ones change all seeds.
ASSEMBLIES = (*FURNITURE, *KITCHEN, *PLANTS, *STREET, *VEHICLES, *FIGURES, *TREASURE)
