"""BlenderProc on the `bpy` wheel. Runs inside the renderer's Python, which has no instant3d.

BlenderProc 2.8.0 expects to live inside a Blender that it has downloaded. On the wheel its package stays bare (see
`blender_process.environment`), so that nothing is installed and no path is changed behind our back; here it gets its
interface.
"""

import importlib
from types import ModuleType, SimpleNamespace
from typing import Any

API = ("camera", "renderer", "types")  # what we use of fifteen


class _Instead:
    """Proxy of `real`, except for the given attributes."""

    def __init__(self, real: object, **own: object) -> None:
        self.__dict__.update(own, _real=real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def complete(blenderproc: Any, temporary_folder: str) -> None:
    """Give the bare package the part of its interface that we use, and a folder for what it renders."""
    import bpy

    for name in API:
        setattr(blenderproc, name, importlib.import_module(f"blenderproc.api.{name}"))
    setup = importlib.import_module("blenderproc.python.utility.SetupUtility").SetupUtility
    setup.setup_utility_paths(temporary_folder)
    initializer: Any = importlib.import_module("blenderproc.python.utility.Initializer")
    blenderproc.init, blenderproc.clean_up = initializer.init, initializer.clean_up
    # `init` turns the language to English, which the wheel, built without translations, refuses. `bpy.context` is
    # looked up at each use: a stand-in that kept the first one would point into freed memory after a reset.
    initializer.bpy = _Instead(bpy, context=_Context(bpy))


class _Context:
    """`bpy.context` of the moment, with English as its language."""

    def __init__(self, bpy: ModuleType) -> None:
        self._bpy = bpy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bpy.context, name)

    @property
    def preferences(self) -> _Instead:
        return _Instead(self._bpy.context.preferences, view=SimpleNamespace(language="en_US"))
