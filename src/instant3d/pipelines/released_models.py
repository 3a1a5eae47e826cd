"""The released checkpoints that can be run, and which of them go together. It imports neither torch nor the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

GB = 10**9
NON_COMMERCIAL = "CC BY-NC 4.0: not for commercial use"


@dataclass(frozen=True)
class ReleasedModel:
    """A released checkpoint.

    Attributes:
        name: Name in `instant3d fetch`.
        does: What it makes of what.
        family: Family of `instant3d convert`.
        source: Hub id, or owner/name/file.
        parameters: Its authors' own count, including unused ones.
        licence: The licence of the weights in plain words.
        commercial: Whether the licence permits commercial use.
        download: Least and most bytes to download; they differ where the stored number format is not known.
        memory: Bytes of memory that it takes.
        memory_note: What that is, and whether it was measured or computed.
    """

    name: str
    does: str
    family: str
    source: str
    parameters: int
    licence: str
    commercial: bool
    download: tuple[int, int]
    memory: int
    memory_note: Literal["measured, CPU", "computed, GPU"]

    @property
    def folder(self) -> str:
        """Folder into which `instant3d fetch` writes it by default."""
        return f"checkpoints/{self.name}"


@dataclass(frozen=True)
class Pair:
    """Checkpoints that go together.

    Attributes:
        names: Their names.
        does: What they make of what together.
        command: The command that runs them, once they are fetched.
    """

    names: tuple[str, ...]
    does: str
    command: str

    @property
    def fetch(self) -> str:
        """The command that fetches them."""
        return f"instant3d fetch {' '.join(self.names)}"


def _generator(
    name: str, does: str, family: str, source: str, parameters: int, licence: str, together: int
) -> ReleasedModel:
    """A generator of views, stored in two or four bytes a parameter; `together` are those on a GPU at the same time."""
    download = (2 * parameters, 4 * parameters)
    memory: Literal["computed, GPU"] = "computed, GPU"
    return ReleasedModel(name, does, family, source, parameters, licence, False, download, 2 * together, memory)


def _reconstructor(
    name: str, source: str, parameters: int, memory: float, *, commercial: bool = False, download: int = 0
) -> ReleasedModel:
    family = name.split("-")[0]
    does = "four to six posed views to an object" if family == "instantmesh" else "one photo to an object"
    licence = "MIT: commercial use is permitted" if commercial else NON_COMMERCIAL
    size = download or 4 * parameters
    return ReleasedModel(
        name, does, family, source, parameters, licence, commercial, (size, size), round(memory * GB), "measured, CPU"
    )


NO_LICENCE = "none stated; SDXL's Open RAIL++-M at least: do not pass it on, ask its authors before commercial use"
MODELS: dict[str, ReleasedModel] = {
    model.name: model
    for model in (
        _generator(
            "grm-instant3d", "a prompt to four views", "grm-instant3d", "justimyhxu/GRM", 3_468_838_868, NO_LICENCE,
            2_567_463_684 + 2 * 83_653_863,  # the UNet, and the VAE in float32
        ),
        *(
            _generator(
                f"zero123plus-v{version}", "one photo to six views", "zero123plus", f"sudo-ai/zero123plus-v{version}",
                1_922_029_227, NON_COMMERCIAL, 83_653_863 + 340_387_840 + 632_076_800,  # VAE and both encoders
            )
            for version in ("1.2", "1.1")
        ),
        _reconstructor("instantmesh-large", "TencentARC/InstantMesh", 378_477_332, 2.46),
        _reconstructor("instantmesh-base", "TencentARC/InstantMesh/instant_nerf_base.ckpt", 313_249_004, 2.23),
        _reconstructor("triposr", "stabilityai/TripoSR", 419_275_628, 2.66, commercial=True, download=1_677_246_742),
        _reconstructor("openlrm-large", "zxhezexin/openlrm-mix-large-1.1", 452_138_004, 2.72),
        _reconstructor("openlrm-base", "zxhezexin/openlrm-mix-base-1.1", 260_201_972, 1.90),
        _reconstructor("openlrm-small", "zxhezexin/openlrm-mix-small-1.1", 111_390_948, 1.27),
    )
}  # fmt: skip


def pairs() -> Iterator[Pair]:
    """Checkpoints that go together, with their commands."""
    for stage2 in ("instantmesh-large", "instantmesh-base"):
        weights = MODELS[stage2].folder
        yield Pair(
            ("grm-instant3d", stage2),
            "a prompt to an object",
            f"instant3d generate 'a red fire hydrant' --stage1 {MODELS['grm-instant3d'].folder} --stage2 {weights} "
            "-o out",
        )
        for views in ("zero123plus-v1.2", "zero123plus-v1.1"):
            yield Pair(
                (views, stage2),
                "one photo to an object, by six views",
                f"instant3d reconstruct photo.png --views-by {MODELS[views].folder} --weights {weights} -o out",
            )
    for model in MODELS.values():
        if model.does.startswith("one photo to an object"):
            yield Pair((model.name,), model.does, f"instant3d reconstruct photo.png --weights {model.folder} -o out")


def find(name: str) -> ReleasedModel:
    """Return a model by its name.

    Raises:
        ValueError: There is none of that name; the message lists them.
    """
    if name not in MODELS:
        raise ValueError(f"{name!r} is not a released model; choose among {', '.join(MODELS)}")
    return MODELS[name]


def table() -> list[str]:
    """Lines that describe all models, then the pairs with their two commands."""
    lines = []
    for model in MODELS.values():
        low, high = (size / GB for size in model.download)
        size = f"{low:.2f} GB" if low == high else f"{low:.1f} or {high:.1f} GB"
        lines += [
            f"{model.name}: {model.does}",
            f"  {model.parameters:,} parameters, download {size}, memory {model.memory / GB:.2f} GB "
            f"({model.memory_note}); from {model.source}",
            f"  licence: {model.licence}",
        ]
    for pair in pairs():
        lines += ["", f"{' + '.join(pair.names)}: {pair.does}", f"  {pair.fetch}", f"  {pair.command}"]
    return lines
