"""Plausible everyday things put together from simple solids."""

from data_prep.assemblies.figures import FIGURES
from data_prep.assemblies.furniture import FURNITURE
from data_prep.assemblies.kitchen import KITCHEN
from data_prep.assemblies.plants import PLANTS
from data_prep.assemblies.street import STREET
from data_prep.assemblies.treasure import TREASURE
from data_prep.assemblies.vehicles import VEHICLES

# The order decides which thing a seed builds: new ones change all seeds.
ASSEMBLIES = (*FURNITURE, *KITCHEN, *PLANTS, *STREET, *VEHICLES, *FIGURES, *TREASURE)
