"""The released generators of views that can be converted, by the family's name in commands."""

from __future__ import annotations

from collections.abc import Callable

from instant3d.pipelines.convert import grm_instant3d, zero123plus
from instant3d.pipelines.convert.view_generator import GeneratorConversion

VIEW_GENERATORS: dict[str, Callable[..., GeneratorConversion]] = {
    module.GENERATOR.name: module.inspect for module in (grm_instant3d, zero123plus)
}
