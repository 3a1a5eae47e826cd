"""Sound inputs that the fuzzer starts from, made by the project's own writers, or by hand where it has none."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.fuzz.mutators import Files

SIDE = 12  # pixels of images


def files_of(write: Callable[[Path], object], only: str = "*") -> Files:
    """What a function writes into a folder."""
    with tempfile.TemporaryDirectory(prefix="fuzz-seed-") as name:
        folder = Path(name)
        write(folder)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob(only))
            if path.is_file()
        }


def meshes() -> list:
    """A plate with a texture, an octahedron with vertex colours and normals, and a plain one."""
    from instant3d.mesh import Mesh

    plate = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0.5], [-1, 1, 0]])
    texture = np.arange(4 * 4 * 4, dtype=np.uint8).reshape(4, 4, 4) * 3
    corners = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]])
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    return [
        Mesh(plate, [[0, 1, 2], [0, 2, 3]], uv=plate[:, :2] / 2 + 0.5, texture=texture, alpha_cutoff=0.5),
        Mesh(corners, faces, normals=corners, colors=np.abs(corners)),
        Mesh(corners + 2, faces, base_color=(0.2, 0.4, 0.6, 1.0)),
    ]


def saved_mesh(suffix: str) -> list[Files]:
    """Each mesh alone and all in one, in files of one format."""
    from instant3d.mesh import save

    parts = meshes()
    return [files_of(lambda folder, some=some: save(some, folder / f"object{suffix}")) for some in (parts[:1], parts)]


def gltf_documents() -> list[Files]:
    """What our own writer does not write: skins, morphs, sparse accessors, strips, transforms, old materials."""
    from tests.fixtures.gltf_by_hand import TRIANGLE, ByHand, triangle

    skinned = triangle()
    attributes = skinned.json["meshes"][0]["primitives"][0]["attributes"]
    attributes["JOINTS_0"] = skinned.values(np.zeros((3, 4), np.uint8))
    attributes["WEIGHTS_0"] = skinned.values(np.tile(np.array([1, 0, 0, 0], np.float32), (3, 1)))
    inverse = skinned.values(np.eye(4, dtype=np.float32).reshape(1, 16))
    skinned.json["skins"] = [{"joints": [1], "inverseBindMatrices": inverse}]
    skinned.json["nodes"] = [{"mesh": 0, "skin": 0}, {"translation": [0, 1, 0], "rotation": [0, 0, 0, 1]}]
    skinned.json |= {"scenes": [{"nodes": [0, 1]}], "scene": 0}

    morphed = triangle()
    shift = morphed.values(TRIANGLE * np.float32(0.1))
    morphed.json["meshes"][0]["primitives"][0]["targets"] = [{"POSITION": shift}]
    morphed.json["meshes"][0]["weights"] = [0.5]
    where, what = morphed.view(b"\1\0"), morphed.view(TRIANGLE[:1].tobytes())
    sparse = {"count": 1, "indices": {"bufferView": where, "componentType": 5123}, "values": {"bufferView": what}}
    morphed.json["accessors"][0]["sparse"] = sparse
    morphed.json["nodes"] = [{"children": [1], "scale": [1, 2, 1]}, {"mesh": 0, "matrix": np.eye(4).ravel().tolist()}]

    document = ByHand()
    uv = document.values(np.array([[0, 0], [1, 0], [0, 1]], np.float32))
    indices = document.values(np.array([0, 1, 2], np.uint16))
    textured = triangle({"TEXCOORD_0": uv}, document, indices=indices, material=0, mode=5)
    place = {
        "index": textured.picture(png()),
        "extensions": {"KHR_texture_transform": {"scale": [2, 2], "rotation": 1}},
    }
    textured.json["samplers"] = [{"wrapS": 33071, "wrapT": 33648}]
    textured.json["textures"][0]["sampler"] = 0
    textured.json["materials"] = [
        {
            "alphaMode": "MASK",
            "alphaCutoff": 0.3,
            "emissiveFactor": [1, 0.5, 0],
            "emissiveTexture": place,
            "pbrMetallicRoughness": {"baseColorTexture": place, "baseColorFactor": [1, 1, 1, 1]},
        }
    ]
    old = triangle(None, None, material=0)
    diffuse = {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [1, 0, 0, 1]}}
    old.json |= {"materials": [{"extensions": diffuse}], "extensionsUsed": ["KHR_materials_pbrSpecularGlossiness"]}
    instanced = triangle()
    places = instanced.values(TRIANGLE)
    instancing = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": places}}}
    instanced.json |= {"nodes": [{"mesh": 0, "extensions": instancing}], "extensionsUsed": list(instancing)}
    documents = (skinned, morphed, textured, old, instanced)
    return [files_of(lambda folder, one=one: one.save(folder / "object.gltf")) for one in documents]


OBJ = """# a cube's side and more
mtllib object.mtl other.mtl
o one
v -1 -1 0 1 0 0
v 1 -1 0 0 1 0
v 1 1 0 0 0 1
v -1 1 0 1 1 1
v 0 0.5 1 1 1 0
vt 0 0
vt 1 0 0
vt 1 1
vt 0 1
vn 0 0 1
usemtl red
f 1/1/1 2/2/1 3/3/1 4/4/1
f -5//1 -4//1 -1//1
usemtl picture
s off
f 1/1 2/2 5/3
f 4 3 5 1
"""
MTL = """newmtl red
Kd 0.8 0.1 0.1
Ks 0 0 0
newmtl picture
map_Kd -s 2 2 1 -o 0.5 0 0 -clamp on red.png
Ke 0 0.1 0
Tr 0.5
d 0.5
"""
ASCII_PLY = """ply
format ascii 1.0
comment TextureFile red.png
obj_info x
element vertex 4
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
element face 2
property list uchar int vertex_indices
property list uchar float texcoord
end_header
0 0 0 255 0 0
1 0 0 0 255 0
1 1 0 0 0 255
0 1 1 9 9 9
3 0 1 2 6 0 0 1 0 1 1
3 0 2 3 6 0 0 1 1 0 1
"""


def obj() -> list[Files]:
    """What we write, and a hand-written one with relative numbers, two libraries and a texture."""
    written = {"object.obj": OBJ.encode(), "object.mtl": MTL.encode(), "other.mtl": b"newmtl other\n", "red.png": png()}
    return [*saved_mesh(".obj"), written]


POLYGON_PLY = """ply
format ascii 1.0
element vertex 5
property float x
property float y
property float z
element face 2
property list uchar int vertex_index
end_header
0 0 0
1 0 0
1 1 0
0 1 1
2 2 0
4 0 1 2 3
3 1 4 2
"""


def ply() -> list[Files]:
    """Binary as we write it, and as text with faces of several corners and a texture."""
    by_hand = [{"object.ply": ASCII_PLY.encode(), "red.png": png()}, {"object.ply": POLYGON_PLY.encode()}]
    return [*saved_mesh(".ply"), *by_hand]


def png(mode: str = "RGBA", **options: object) -> bytes:
    """A small image."""
    return encoded("PNG", mode, **options)


def encoded(kind: str, mode: str, **options: object) -> bytes:
    """A small image of a kind and mode with a dark disc in a bright field."""
    down, across = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    inside = down**2 + across**2 < SIDE
    if mode == "I;16":
        image = Image.fromarray(np.where(inside, 20_000, 0).astype(np.uint16))
    else:
        grey = Image.fromarray(np.where(inside, 60, 255).astype(np.uint8))
        image = grey.convert("RGBA" if mode in ("RGBA", "LA") else "RGB")
        if mode in ("RGBA", "LA"):
            image.putalpha(Image.fromarray((inside * 255).astype(np.uint8)))
        image = image.convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def image_files() -> list[Files]:
    """PNGs, JPEGs and WebPs of all modes, with EXIF, profiles, transparency, several frames."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pages = [Image.new("RGB", (SIDE, SIDE), color) for color in ("red", "blue")]
    pngs = [png(mode) for mode in ("RGBA", "RGB", "L", "LA", "P", "1", "I;16")]
    pngs += [png("P", transparency=0), png("RGB", exif=exif, dpi=(72, 72))]
    pngs += [png("RGB", save_all=True, append_images=pages), png("RGB", icc_profile=b"\0" * 200)]
    jpegs = [encoded("JPEG", mode, exif=exif) for mode in ("RGB", "L", "CMYK")]
    jpegs += [encoded("JPEG", "RGB", progressive=True), encoded("MPO", "RGB", save_all=True, append_images=pages)]
    webps = [encoded("WEBP", "RGBA", lossless=True), encoded("WEBP", "RGB", exif=exif)]
    webps += [encoded("WEBP", "RGB", save_all=True, append_images=pages)]
    kinds = (("image.png", pngs), ("image.jpg", jpegs), ("image.webp", webps))
    return [{name: data, "mask.png": png("L")} for name, images in kinds for data in images]


def npy(array: np.ndarray) -> bytes:
    """An array as NumPy saves it."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def depth_maps() -> list[Files]:
    """A depth map as PNG and as floats, and normals."""
    floats = np.linspace(0, 2, SIDE * SIDE).reshape(SIDE, SIDE)
    return [
        {"depth.png": png("I;16"), "normals.png": png("RGB")},
        {"depth.npy": npy(floats.astype(np.float32)), "normals.png": png("RGB")},
        {"depth.npy": npy(floats[..., None]), "normals.png": png("RGBA")},
    ]


def views(count: int = 2):
    """Views (V,) of a ball with depth and normals."""
    from instant3d.cameras import structured_cameras
    from instant3d.views import Views

    cameras = structured_cameras()[:count]
    rays = cameras.rays(SIDE, SIDE)
    across = torch.linalg.cross(-rays.origins.expand_as(rays.directions), rays.directions).norm(dim=-1)
    alpha = (across < 0.6).float()[:, None]
    rgb = torch.tensor([0.9, 0.1, 0.1])[:, None, None].expand(count, 3, SIDE, SIDE)
    normals = -rays.directions.movedim(-1, 1) if rays.directions.shape[-1] == 3 else None
    return Views(rgb.clone(), alpha, cameras, alpha * 2, normals * alpha)


def scene_folders() -> list[Files]:
    """A scene as we write it, and one as others do: JPEGs with masks, shared and own lenses, distortion, a scale."""
    from instant3d import scenes

    credit = {"license": "CC-BY-4.0", "author": "a", "url": "https://x"}
    own = files_of(lambda folder: scenes.write(folder / "s", views(), caption="a red ball", extra=credit))
    own = {name.removeprefix("s/"): data for name, data in own.items()}
    document = json.loads(own[scenes.DOCUMENT])
    frames = [
        {"file_path": "images/a.jpg", "mask_path": "masks/a.png", "transform_matrix": frame["transform_matrix"]}
        for frame in document["frames"]
    ]
    frames[1] |= {"file_path": "./images/b", "fl_x": 20.0, "camera_angle_x": 0.7, "w": SIDE, "h": SIDE, "k1": 1e-5}
    shared = {"camera_angle_x": 0.7, "k1": 1e-4, "p1": 0.0, "scale": 0.33, "offset": [0.5, 0.5, 0.5], "aabb_scale": 2}
    foreign = {
        scenes.DOCUMENT: json.dumps(shared | {"frames": frames}).encode(),
        "images/a.jpg": encoded("JPEG", "RGB"),
    }
    return [own, foreign | {"images/b.png": png("RGB"), "masks/a.png": png("1")}]


def shards() -> list[Files]:
    """A tar as `scenes.shards` writes it, and one as `pack` does, with its index."""
    from instant3d import scenes
    from instant3d.scenes import pack
    from instant3d.scenes import shards as tars

    def packed(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="fuzz-scenes-") as name:
            for k in range(2):
                scenes.write(Path(name) / f"ball{k}", views(), caption="a red ball")
            for path in Path(name).rglob("*.*"):
                os.utime(path, (0, 0))  # the index has a hash of the times
            pack.pack([name], folder / "shards")

    def written(folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="fuzz-scenes-") as name:
            scenes.write(Path(name) / "ball", views(), caption="a red ball")
            tars.write([Path(name) / "ball"], folder / "shards")

    return [files_of(packed), files_of(written)]


def layouts() -> dict[str, Files]:
    """An object in each layout of another project."""
    from tests.fixtures.foreign_layouts import WRITERS

    return {name: files_of(lambda folder, write=write: write(folder, views(4))) for name, write in WRITERS.items()}


def captures() -> list[Files]:
    """A capture by each program, and one by COLMAP in text."""
    from tests.fixtures import captures

    def written(folder: Path, name: str, **settings: bool) -> None:
        captures.WRITERS[name](folder, captures.cameras(3), **settings)

    found = [files_of(lambda folder, name=name: written(folder, name)) for name in captures.WRITERS]
    return [*found, files_of(lambda folder: written(folder, "colmap", binary=False))]


def prompt_lists() -> list[Files]:
    """Lists as text, JSON and CSV."""
    text = "# a list\na red chair\n\na blue boat, sailing\nein grüner Stuhl\n#1 dad mug\n"
    rows = [{"prompt": "a red chair", "id": 1}, {"prompt": "a blue boat", "id": 2}]
    return [
        {"prompts.txt": text.encode()},
        {"prompts.json": json.dumps(["a red chair", "a blue boat"]).encode()},
        {"prompts.json": json.dumps(rows).encode()},
        {"prompts.csv": b'id,prompt\n1,a red chair\n2,"a blue boat, sailing"\n'},
        {"prompts.jsonl": "\n".join(map(json.dumps, rows)).encode()},
    ]


def manifests() -> list[Files]:
    """Rows with all that is read of them."""
    rows = [
        {"id": "chair", "file": "chair.glb", "caption": "a chair", "license": "CC-BY-4.0", "split": "train"},
        {
            "id": "boat",
            "uid": "u2",
            "file": "boats/boat.obj",
            "captions": ["a boat", "a ship"],
            "author": "b",
            "url": "u",
        },
        {"id": "cup", "file": "cup.ply", "name": "Cup", "licence": "cc0", "source": "own", "colors": ["red"]},
    ]
    return [{"objects.jsonl": "\n".join(map(json.dumps, rows)).encode()}]


def networks() -> dict[str, Files]:
    """Folders of weights of each kind of network, as small as they can be."""
    from instant3d.direct.architecture import Architecture as DirectArchitecture
    from instant3d.direct.network import TextToTriplane
    from instant3d.stage2.network import Architecture, Reconstructor

    tiny = Architecture(
        image_size=16, encoder="plucker", encoder_width=8, encoder_depth=1, encoder_heads=1, patch=8, width=8, depth=1,
        heads=1, token_side=2, plane_side=4, channels=2, decoder_width=4, decoder_layers=2,
    )  # fmt: skip
    direct = DirectArchitecture.from_dict(
        {
            "text_width": 8, "text_length": 4, "token_width": 8, "token_heads": 2, "style_text_width": 8,
            "noise_width": 4, "style_width": 8, "base_side": 2, "base_channels": 8, "widths": [8], "groups": [4],
            "attention": [True], "layers": 1, "head_width": 8, "norm": "group", "last_groups": 4, "channels": 2,
            "decoder_width": 4, "blob": 5.0, "blob_radius": 0.5,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    return {
        "stage2": files_of(Reconstructor(tiny).save_pretrained),
        "direct": files_of(TextToTriplane(direct).save_pretrained),
    }


def checkpoints() -> list[Files]:
    """PyTorch's archives of tensors and numbers."""
    content = {
        "state_dict": {"a.weight": torch.zeros(2, 3), "b": torch.ones(2).half()},
        "epoch": 3,
        "hyper": {"x": [1, 2]},
    }
    config = json.dumps({"model": {"width": 8, "depth": 2}}).encode()
    yaml = b"model:\n  width: 8\n  heads: [1, 2]\n  name: &a x\n  other: *a\n"
    plain = files_of(lambda folder: torch.save(content, folder / "model.ckpt"))
    return [plain, plain | {"config.json": config}, plain | {"config.yaml": yaml}]


def assets() -> list[Files]:
    """A triplane with its decoder."""
    from instant3d.nerf.triplane import Decoder, DecoderConfig, Triplane
    from instant3d.nerf.triplane_file import write_triplane

    torch.manual_seed(0)
    triplane, decoder = Triplane(torch.randn(3, 2, 4, 4)), Decoder(DecoderConfig(2, width=4, layers=2))
    files = files_of(lambda folder: write_triplane(triplane, decoder, folder / "triplane.safetensors"))
    return [{name: _with_sorted_header(data) for name, data in files.items()}]


def _with_sorted_header(data: bytes) -> bytes:
    """A safetensors file with its metadata in one order, which the library's hash table does not keep."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    return data[:8] + header.ljust(size) + data[8 + size :]
