"""The NeRF body: triplanes, fields, volume rendering and surface extraction."""
