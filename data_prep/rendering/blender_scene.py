"""One Blender scene: object, light, cameras and their renders. Runs inside the renderer's Python."""

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import bpy
import numpy as np
from blenderproc.python.utility.GlobalStorage import GlobalStorage

CUT_OUTS = 64  # holes that a ray passes before it is lost
SHINE = ("Metallic", "Specular IOR Level", "Coat Weight", "Sheen Weight", "Transmission Weight")

Bounds = tuple[list[float], list[float]]  # the lowest and the highest corner


def reset_scene(bproc: ModuleType, device: str) -> None:
    """Start an empty scene with nothing left of the previous one.

    `bproc.clean_up()` would keep the compositor's nodes but not their keyframes: normals are wrong from then on.

    Args:
        bproc: BlenderProc.
        device: "cpu", "cuda" or "optix".

    Raises:
        ValueError: There is no such device.
    """
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.preferences.filepaths.use_scripts_auto_execute = False
    GlobalStorage._storage_dict.clear()
    bproc.init()
    if device == "cpu":
        bproc.renderer.set_render_devices(use_only_cpu=True)
        return
    bproc.renderer.set_render_devices(desired_gpu_device_type=[device.upper()])
    if bpy.context.scene.cycles.device != "GPU":
        raise ValueError(f"Blender finds no {device.upper()} device here; take device cpu")


def load(path: str) -> Bounds:
    """Import the .glb at `path`; return the lowest and highest world coordinates of its triangles.

    Raises:
        ValueError: Blender cannot import it or decode a texture, or it has no triangles.
    """
    try:
        bpy.ops.import_scene.gltf(filepath=path, disable_bone_shape=True, import_shading="NORMALS")
    except RuntimeError as error:  # whatever goes wrong in an operator
        raise ValueError(f"Blender cannot import it ({str(error).strip().splitlines()[-1]})") from error
    undecoded = [image.name for image in bpy.data.images if image.source == "FILE" and not _decoded(image)]
    if undecoded:
        raise ValueError(f"Blender cannot decode {len(undecoded)} of its textures")
    corners = np.concatenate([np.zeros((0, 3)), *_corners()])
    if not len(corners):
        raise ValueError("Blender finds no triangles in it")
    return corners.min(0).tolist(), corners.max(0).tolist()


def _decoded(image: Any) -> bool:
    return min(image.size) > 0 and image.has_data  # asking for the size makes Blender read the file


def _corners() -> Iterator[np.ndarray]:
    """Arrays (N, 3) of the world places of all face corners, skins applied."""
    for instance in bpy.context.evaluated_depsgraph_get().object_instances:
        if instance.object.type != "MESH":
            continue
        mesh = instance.object.data
        places, index = np.empty(3 * len(mesh.vertices), np.float32), np.empty(len(mesh.loops), np.int32)
        mesh.vertices.foreach_get("co", places)
        mesh.loops.foreach_get("vertex_index", index)
        world = np.array(instance.matrix_world)
        yield places.reshape(-1, 3)[np.unique(index)] @ world[:3, :3].T + world[:3, 3]


def light(bproc: ModuleType, lighting: str, lights: Sequence[dict[str, Any]]) -> None:
    """Set the materials and lamps for a kind of lighting.

    Args:
        bproc: BlenderProc.
        lighting: "flat" (the surfaces' own colours), "uniform" (matte in white light) or "area" (with lamps).
        lights: Square lamps that shine at the origin: `position` (3,), `watts`, and `side`, a length.
    """
    strength = {"flat": 0.0, "uniform": 1.0, "area": 0.5}[lighting]
    bproc.renderer.set_world_background([1.0, 1.0, 1.0], strength)
    for tree, surface in _surfaces():
        if lighting != "area":
            for name in SHINE:
                _set(tree, surface.inputs[name], 0.0)
        if lighting == "flat":
            base = surface.inputs["Base Color"]
            _glow(tree, surface, base.links[0].from_socket if base.is_linked else base.default_value[:])
    for lamp in lights:
        place = np.array(lamp["position"])
        made = bproc.types.Light("AREA")
        made.set_energy(lamp["watts"])
        made.set_location(place)
        made.set_rotation_mat(bproc.camera.rotation_from_forward_vec(-place))
        made.blender_obj.data.size = lamp["side"]


def _surfaces() -> Iterator[tuple[Any, Any]]:
    """Node trees of all materials, each with its surface shader; the importer makes no other of `sanitized_gltf`'s."""
    for material in bpy.data.materials:
        for node in list(material.node_tree.nodes) if material.use_nodes else []:
            if node.type == "BSDF_PRINCIPLED":
                yield material.node_tree, node


def _glow(tree: Any, surface: Any, source: Any) -> None:
    """Let the surface reflect nothing and emit `source`, a colour or a socket, where it is not cut out."""
    _set(tree, surface.inputs["Emission Color"], source)
    _set(tree, surface.inputs["Emission Strength"], 1.0)
    _set(tree, surface.inputs["Base Color"], (0.0, 0.0, 0.0, 1.0))
    for name in SHINE:
        _set(tree, surface.inputs[name], 0.0)


def _set(tree: Any, socket: Any, value: Any) -> None:
    for link in list(socket.links):
        tree.links.remove(link)
    if isinstance(value, bpy.types.NodeSocket):
        tree.links.new(value, socket)
    else:
        socket.default_value = value


def set_cameras(bproc: ModuleType, cameras: np.ndarray, intrinsics: np.ndarray, size: int) -> None:
    """Set one frame per view.

    Args:
        bproc: BlenderProc.
        cameras: (V, 4, 4), camera to world with OpenGL's axes.
        intrinsics: (V, 4): fx, fy, cx, cy as fractions of the image.
        size: Pixels a side.
    """
    data = bpy.context.scene.camera.data
    far = float(np.linalg.norm(cameras[:, :3, 3], axis=1).max()) + 10
    near = min(0.01, far / 1e4)
    for pose, (fx, fy, cx, cy) in zip(cameras, intrinsics * size, strict=True):
        # BlenderProc counts from the centre of the first pixel, we from its corner
        matrix = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]])
        bproc.camera.set_intrinsics_from_K_matrix(matrix, size, size, near, far)
        frame = bproc.camera.add_camera_pose(pose)
        for name in ("lens", "shift_x", "shift_y"):
            data.keyframe_insert(data_path=name, frame=frame)


def images(bproc: ModuleType, samples: int, threads: int, lighting: str) -> np.ndarray:
    """Render all views: straight-alpha sRGB (V, S, S, 4) uint8, averaged over square pixels as in the fast renderers.

    Args:
        bproc: BlenderProc.
        samples: Paths per pixel.
        threads: CPU threads.
        lighting: "flat", "uniform" or "area", which sets the number of bounces.
    """
    scene, renderer = bpy.context.scene, bproc.renderer
    renderer.set_denoiser(None)  # at 16 samples and more it costs more than samples that do as much
    scene.use_nodes = scene.render.use_compositing = False
    renderer.set_output_format("PNG", 8, enable_transparency=True, view_transform="Standard")
    renderer.set_max_amount_of_samples(samples)
    renderer.set_noise_threshold(0)  # the count asked for, everywhere: silhouettes are what it would save on
    renderer.set_cpu_threads(threads)
    bounces, gloss = {"flat": (0, 0), "uniform": (3, 0), "area": (3, 2)}[lighting]
    renderer.set_light_bounces(bounces, gloss, 0, bounces, 0, CUT_OUTS, 0)
    scene.cycles.pixel_filter_type = "BOX"
    scene.cycles.seed = 0
    scene.render.dither_intensity = 0
    return np.stack(renderer.render(verbose=True)["colors"])


def surfaces(bproc: ModuleType, maps: Sequence[str]) -> list[np.ndarray]:
    """Render maps (V, S, S, C) float32 at pixel centres, 0 where there is no surface.

    Surfaces emit the requested values, with one sample a pixel, the first of which Cycles puts in the centre. Its own
    passes would do for depth, but they average normals, and BlenderProc turns those to the camera by compositing, which
    takes longer than all the rest.

    Args:
        bproc: BlenderProc.
        maps: Some of "depth" (camera z, C = 1) and "normals" (world axes, C = 3).

    Returns:
        One array for each of `maps`, in their order.
    """
    bpy.context.scene.cycles.pixel_filter_type = "BOX"
    bproc.renderer.set_max_amount_of_samples(1)
    bproc.renderer.set_light_bounces(0, 0, 0, 0, 0, CUT_OUTS, 0)
    bproc.renderer.set_world_background([0.0, 0.0, 0.0], 0)
    bproc.renderer.set_output_format("OPEN_EXR", 32, enable_transparency=True)
    for lamp in [found for found in bpy.data.objects if found.type == "LIGHT"]:
        bpy.data.objects.remove(lamp)
    found = {"depth": _glowing(bproc, "depth", _view_depth)[..., :1]}
    if "normals" in maps:
        normals = _glowing(bproc, "normals", _coded_normal) * 2 - 1
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        found["normals"] = np.where(found["depth"] > 0, normals / np.maximum(length, 1e-6), 0)
    return [found[name].astype(np.float32) for name in maps]


def _glowing(bproc: ModuleType, key: str, source: Callable[[Any], Any]) -> np.ndarray:
    """Images (V, S, S, 3) float32 of surfaces that emit the values of `source`'s sockets."""
    for tree, surface in _surfaces():
        _glow(tree, surface, source(tree))
    return np.stack(bproc.renderer.render(file_prefix=key, output_key=key, load_keys={key}, verbose=True)[key])[..., :3]


def _view_depth(tree: Any) -> Any:
    return tree.nodes.new("ShaderNodeCameraData").outputs["View Z Depth"]


def _coded_normal(tree: Any) -> Any:
    """The world normal on the camera's side, from [-1, 1] to [0, 1]: a surface cannot emit less than nothing."""
    code = tree.nodes.new("ShaderNodeVectorMath")
    code.operation = "MULTIPLY_ADD"
    code.inputs[1].default_value = code.inputs[2].default_value = (0.5, 0.5, 0.5)
    tree.links.new(tree.nodes.new("ShaderNodeNewGeometry").outputs["Normal"], code.inputs[0])
    return code.outputs["Vector"]
