"""Cameras of the views that a generator of views shows, and how it is sampled: `views.json` in its folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from instant3d.cameras import (
    FRONT_AZIMUTH_DEG,
    STRUCTURED_AZIMUTHS_DEG,
    STRUCTURED_ELEVATION_DEG,
    STRUCTURED_FOV_DEG,
    STRUCTURED_RADIUS,
    Cameras,
    orbit,
)
from instant3d.modules.diffusion.checkpoint_source import read_json
from instant3d.utils.safetensors_folder import architecture_of, check_ranges

Spacing = Literal["trailing", "legacy"]  # of the timesteps that sampling visits
FILE = "views.json"
RANGES = {
    "azimuths_deg": (-360.0, 360.0),
    "elevations_deg": (-90.0, 90.0),
    "radius": (0.01, 1000.0),
    "fov_deg": (1.0, 170.0),
    "front_azimuth_deg": (-360.0, 360.0),
}


@dataclass(frozen=True)
class ViewLayout:
    """Cameras of generated views, row by row; the defaults are ours, those of Instant3D (arXiv 2311.06214).

    Attributes:
        azimuths_deg: Azimuth of each view.
        elevations_deg: Elevation of each view.
        radius: Distance of all cameras from the origin.
        fov_deg: Field of view of all cameras.
        front_azimuth_deg: Azimuth of a camera in front of the object; ours is 270.
        sampling: "trailing" spacing of the timesteps from a centred blob, or the "legacy" conventions of Stability AI's
            first SDXL code as GRM uses it: its spacing, a blob that is shrunk from twice the size, and a sample of the
            VAE's posterior in place of its mode.

    Raises:
        ValueError: A value is out of range, or the object is turned by other than quarter turns.
    """

    azimuths_deg: tuple[float, ...] = STRUCTURED_AZIMUTHS_DEG
    elevations_deg: tuple[float, ...] = (STRUCTURED_ELEVATION_DEG,) * len(STRUCTURED_AZIMUTHS_DEG)
    radius: float = STRUCTURED_RADIUS
    fov_deg: float = STRUCTURED_FOV_DEG
    front_azimuth_deg: float = FRONT_AZIMUTH_DEG
    sampling: Spacing = "trailing"

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        if not self.azimuths_deg or len(self.azimuths_deg) != len(self.elevations_deg):
            raise ValueError(
                f"each view has an azimuth and an elevation, got {len(self.azimuths_deg)} azimuths_deg and "
                f"{len(self.elevations_deg)} elevations_deg; give as many"
            )
        if self.front_azimuth_deg % 90:
            raise ValueError(f"front_azimuth_deg must be a multiple of 90 degrees, got {self.front_azimuth_deg:g}")

    @classmethod
    def read(cls, folder: Path) -> ViewLayout:
        """Read a folder's `views.json`; ours if it has none.

        Raises:
            ValueError: The file is invalid.
        """
        path = folder / FILE
        if not path.is_file():
            return cls()
        return architecture_of(cls, read_json(path), path)

    def write(self, folder: Path) -> None:
        """Write `views.json` into an existing folder."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @property
    def cameras(self) -> Cameras:
        """Cameras (V,) of the views, in the generator's own world."""
        return orbit(self.azimuths_deg, self.elevations_deg, self.radius, self.fov_deg)

    @property
    def quarter_turns(self) -> int:
        """Quarter turns about z, from +x towards +y, that move the object's front to where ours is: 0 to 3."""
        return round((FRONT_AZIMUTH_DEG - self.front_azimuth_deg) / 90) % 4
