"""instant3d in ComfyUI: link or copy this folder into ComfyUI/custom_nodes, where `pip install instant3d` was run."""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
