"""Rendering of a triangle soup with OpenGL, on a GPU or with Mesa's software driver.

Colour is drawn on a grid `supersample` times finer and averaged in linear light; depth and normals, if requested, are
drawn once more at the image's own size, so that they are exact at the centre of each pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from instant3d.mesh import WRAPS

from .triangle_soup import SOFT_AMBIENT, SOFT_KEY, SOFT_KEY_DIRECTION, SOFT_SKY, Group, TriangleSoup

LAYOUT = {"position": "3f", "normal": "3f", "color": "3f", "uv": "2f"}
GL_SRGB8_ALPHA8 = 0x8C43  # decoded to linear light before it is interpolated
DRIVERS: tuple[dict[str, Any], ...] = (
    {"backend": "egl", "libgl": "libGL.so.1", "libegl": "libEGL.so.1"},
    {"backend": "egl"},
)

VERTEX = """
#version 330
uniform mat4 clip_from_world;
in vec3 position; in vec3 normal; in vec3 color; in vec2 uv;
out vec3 to_normal; out vec3 to_color; out vec2 to_uv;
void main() {
    gl_Position = clip_from_world * vec4(position, 1);
    to_normal = normal; to_color = color; to_uv = uv;
}
"""

SURFACE = """
in vec3 to_normal; in vec3 to_color; in vec2 to_uv;
#ifdef TEXTURED
uniform sampler2D image; uniform ivec2 wrap; uniform float cutoff;
float fold(float x, int how) { return how == 2 ? 1 - abs(mod(x, 2) - 1) : x; }
vec4 texel() { return textureLod(image, vec2(fold(to_uv.x, wrap.x), fold(to_uv.y, wrap.y)), 0); }
#endif
vec3 facing_normal() {
    vec3 n = normalize(to_normal);
    return gl_FrontFacing ? n : -n;
}
"""

COLOR = """
layout(location = 0) out vec4 drawn;
void main() {
    vec3 light = to_color;
#ifdef TEXTURED
    vec4 texel = texel();
#ifdef MASKED
    if (texel.a < cutoff) discard;
#endif
    light *= texel.rgb;
#endif
#ifdef SOFT
    vec3 n = facing_normal();
    light *= AMBIENT + SKY * (0.5 + 0.5 * n.z) + KEY * max(dot(n, KEY_DIRECTION), 0.0);
#endif
    drawn = vec4(light, 1);
}
"""

GEOMETRY = """
layout(location = 0) out vec4 drawn;
void main() {
#ifdef MASKED
    if (texel().a < cutoff) discard;
#endif
    drawn = vec4(1.0 / gl_FragCoord.w, facing_normal());
}
"""
DEPTH = GEOMETRY.replace("facing_normal()", "vec3(0)")

WHOLE_VERTEX = """
#version 330
in vec2 corner;
void main() { gl_Position = vec4(corner, 0, 1); }
"""

AVERAGE = """
uniform sampler2D fine; uniform int row;
layout(location = 0) out vec4 pixel;
void main() {
    ivec2 first = (ivec2(gl_FragCoord.xy) - ivec2(0, row)) * STEP;
    vec4 sum = vec4(0);
    for (int y = 0; y < STEP; y++) for (int x = 0; x < STEP; x++) sum += texelFetch(fine, first + ivec2(x, y), 0);
    vec3 c = clamp(sum.rgb / max(sum.a, 1.0), 0, 1);
    vec3 srgb = mix(12.92 * c, 1.055 * pow(c, vec3(1 / 2.4)) - 0.055, step(0.0031308, c));
    pixel = vec4(srgb, sum.a / float(STEP * STEP));
}
"""


class Unavailable(RuntimeError):
    """There is no usable OpenGL."""


def draw(
    soup: TriangleSoup,
    world_to_cam: np.ndarray,
    intrinsics: np.ndarray,
    size: int,
    *,
    soft: bool,
    supersample: int,
    maps: Sequence[str],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Render a soup.

    Args:
        soup: Triangles in world coordinates.
        world_to_cam: (V, 4, 4), OpenCV axes.
        intrinsics: (V, 4): fx, fy, cx, cy as fractions of the image.
        size: S, pixels a side.
        soft: Whether to use the fixed soft light; else colours are unlit.
        supersample: Samples a side of a pixel.
        maps: Some of "depth" and "normals".

    Returns:
        Images (V, S, S, 4) uint8, and by name the maps, float32: depth (V, S, S, 1), world normals (V, S, S, 3).
    """
    context = shared_context()
    limit = context.info["GL_MAX_TEXTURE_SIZE"] // size
    if limit < 1 or size * supersample > context.info["GL_MAX_TEXTURE_SIZE"]:
        raise ValueError(f"{size} px with {supersample} samples a side is more than the OpenGL driver can render")
    matrices = clip_matrices(soup, world_to_cam, intrinsics)
    drawing = _Drawing(context, soup, soft)
    batches = []
    try:
        for start in range(0, len(matrices), min(limit, 16)):
            batches.append(drawing.views(matrices[start : start + min(limit, 16)], size, supersample, maps))
    finally:
        drawing.release()
    color, surface = (np.concatenate(part) for part in zip(*batches, strict=True))
    found = {"depth": surface[..., :1], "normals": surface[..., 1:]}
    return color, {name: found[name] for name in maps}


@functools.cache
def shared_context() -> Any:
    """This process's one OpenGL context."""
    try:
        import moderngl
    except ImportError as error:
        raise Unavailable("moderngl is not installed") from error
    reasons = []
    for names in DRIVERS:
        try:
            return moderngl.create_context(standalone=True, require=330, **names)
        except Exception as error:  # the binding raises bare Exception, whatever is missing
            reasons.append(str(error))
    raise Unavailable("; ".join(reasons))


def clip_matrices(soup: TriangleSoup, world_to_cam: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Matrices (V, 4, 4) from the world to OpenGL's clip space.

    Row 0 of the image is at the bottom of the target, so that reading needs no flip. The fourth clip coordinate is the
    camera depth z; near and far enclose what lies in front of the camera.

    Args:
        soup: Triangles in world coordinates.
        world_to_cam: (V, 4, 4), OpenCV axes.
        intrinsics: (V, 4): fx, fy, cx, cy as fractions of the image.
    """
    corners = soup.positions.reshape(-1, 3)
    box = np.stack(np.meshgrid(*zip(corners.min(0), corners.max(0), strict=True)), -1).reshape(-1, 3)
    z = box @ world_to_cam[:, 2, :3].T + world_to_cam[:, 2, 3]  # (8, V)
    far = np.maximum(z.max(0) * 1.001, 1e-6)
    near = np.maximum(z.min(0) * 0.999, far * 1e-4)
    fx, fy, cx, cy = intrinsics.T
    clip = np.zeros((len(intrinsics), 4, 4))
    clip[:, 0, 0], clip[:, 0, 2] = 2 * fx, 2 * cx - 1
    clip[:, 1, 1], clip[:, 1, 2] = 2 * fy, 2 * cy - 1
    clip[:, 2, 2], clip[:, 2, 3] = (far + near) / (far - near), -2 * far * near / (far - near)
    clip[:, 3, 2] = 1
    return clip @ world_to_cam


class _Drawing:
    """One soup in the driver's memory."""

    def __init__(self, context: Any, soup: TriangleSoup, soft: bool) -> None:
        self.context, self.soup, self.soft = context, soup, soft
        corners = np.concatenate([soup.positions, soup.normals, soup.colors, soup.uv], axis=2)
        self.buffer = context.buffer(np.ascontiguousarray(corners, dtype=np.float32))
        self.textures = {id(g.texture): self._upload(g.texture) for g in soup.groups if g.texture is not None}
        self.arrays: dict[Any, Any] = {}

    def _upload(self, texture: np.ndarray) -> Any:
        high, wide = texture.shape[:2]
        limit = self.context.info["GL_MAX_TEXTURE_SIZE"]
        if max(high, wide) > limit:
            raise ValueError(f"a texture of {wide} x {high} px is more than the OpenGL driver can hold ({limit})")
        return self.context.texture((wide, high), 4, np.ascontiguousarray(texture), internal_format=GL_SRGB8_ALPHA8)

    def release(self) -> None:
        for held in (*self.arrays.values(), self.buffer, *self.textures.values()):
            held.release()

    def views(
        self, matrices: np.ndarray, size: int, supersample: int, maps: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images (V, S, S, 4) uint8, and depth and normals (V, S, S, 4) float32: of depth alone (V, S, S, 1), of no
        map (V, S, S, 0)."""
        context, count = self.context, len(matrices)
        fine, color = _targets(size, supersample, count)
        average = _average(supersample)
        for k, matrix in enumerate(matrices):
            fine.use()
            fine.clear()
            self._draw(COLOR, matrix, (0, 0, size * supersample, size * supersample))
            color.use()
            context.viewport = (0, k * size, size, size)
            context.disable(context.DEPTH_TEST)
            fine.color_attachments[0].use(0)
            average.program["row"].value = k * size
            average.render(context.TRIANGLES)
        pixels = np.frombuffer(color.read(components=4), np.uint8).reshape(count, size, size, 4)
        return pixels, self._surfaces(matrices, size, maps)

    def _surfaces(self, matrices: np.ndarray, size: int, maps: Sequence[str]) -> np.ndarray:
        count, channels = len(matrices), 4 if "normals" in maps else 1
        if not maps:
            return np.zeros((count, size, size, 0), np.float32)
        target = _surface_target(size, count, channels)
        target.use()
        target.clear()
        for k, matrix in enumerate(matrices):
            self._draw(GEOMETRY if channels == 4 else DEPTH, matrix, (0, k * size, size, size))
        values = np.frombuffer(target.read(components=channels, dtype="f4"), np.float32)
        return values.reshape(count, size, size, channels)

    def _draw(self, shader: str, matrix: np.ndarray, viewport: tuple[int, int, int, int]) -> None:
        context = self.context
        context.viewport = viewport
        context.disable(context.CULL_FACE | context.BLEND)
        context.enable(context.DEPTH_TEST)
        context.front_face = "cw"  # the image is rendered upside down, so the winding is reversed
        for group in self.soup.groups:
            program = self._program(shader, group)
            program["clip_from_world"].write(np.ascontiguousarray(matrix.T, dtype=np.float32))
            self._array(program).render(context.TRIANGLES, vertices=group.count * 3, first=group.first * 3)

    def _array(self, program: Any) -> Any:
        """The corners as this program reads them; what it does not use is skipped."""
        if program not in self.arrays:
            used = [name for name in LAYOUT if name in program]
            form = " ".join(size if name in program else f"{4 * int(size[0])}x" for name, size in LAYOUT.items())
            self.arrays[program] = self.context.vertex_array(program, [(self.buffer, form, *used)])
        return self.arrays[program]

    def _program(self, shader: str, group: Group) -> Any:
        textured = group.texture is not None and (shader is COLOR or group.cutoff > 0)
        program = _surface_program(shader, textured, group.cutoff > 0, self.soft and shader is COLOR)
        if textured:
            texture = self.textures[id(group.texture)]
            texture.repeat_x, texture.repeat_y = (how == "repeat" for how in group.wrap)
            texture.use(0)
            program["wrap"].value = tuple(WRAPS.index(how) for how in group.wrap)
            if "cutoff" in program:
                program["cutoff"].value = group.cutoff
        return program


@functools.cache
def _surface_program(shader: str, textured: bool, masked: bool, soft: bool) -> Any:
    flags = {"TEXTURED": textured, "MASKED": masked and textured, "SOFT": soft}
    key = "vec3({}, {}, {})".format(*np.divide(SOFT_KEY_DIRECTION, np.linalg.norm(SOFT_KEY_DIRECTION)))
    numbers = {"AMBIENT": SOFT_AMBIENT, "SKY": SOFT_SKY, "KEY": SOFT_KEY, "KEY_DIRECTION": key}
    lines = [f"#define {name}" for name, on in flags.items() if on] + [f"#define {k} {v}" for k, v in numbers.items()]
    return shared_context().program(VERTEX, "\n".join(["#version 330", *lines, SURFACE, shader]))


@functools.cache
def _average(supersample: int) -> Any:
    """A vertex array that averages blocks of the fine image into the viewport."""
    context = shared_context()
    program = context.program(WHOLE_VERTEX, f"#version 330\n#define STEP {supersample}\n{AVERAGE}")
    corners = context.buffer(np.array([-1, -1, 3, -1, -1, 3], dtype=np.float32))
    return context.vertex_array(program, [(corners, "2f", "corner")])


@functools.lru_cache(maxsize=4)
def _targets(size: int, supersample: int, count: int) -> tuple[Any, Any]:
    """Framebuffers: one fine image in half floats, `count` finished images one below the other."""
    context, fine_size = shared_context(), (size * supersample, size * supersample)
    fine = context.framebuffer([context.texture(fine_size, 4, dtype="f2")], context.depth_renderbuffer(fine_size))
    return fine, context.framebuffer([context.texture((size, size * count), 4)])


@functools.lru_cache(maxsize=4)
def _surface_target(size: int, count: int, channels: int) -> Any:
    """A framebuffer of `count` images of floats, one below the other."""
    context, tall = shared_context(), (size, size * count)
    return context.framebuffer([context.texture(tall, channels, dtype="f4")], context.depth_renderbuffer(tall))
