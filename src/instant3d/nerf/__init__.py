"""NeRF representation: triplanes, fields, volume rendering, visual hull and surface extraction."""
