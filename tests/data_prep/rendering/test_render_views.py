"""Both renderers against closed forms. The camera at azimuth 0 stands on +x: its right is +y, its up is +z."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import trimesh

from data_prep.rendering import embree, opengl
from data_prep.rendering.rasterizer import chosen, render_views
from data_prep.rendering.triangle_soup import halved
from instant3d.cameras import Cameras, orbit, structured_cameras
from instant3d.mesh import Mesh

FOCAL = 0.5 / math.tan(math.radians(25))  # of the 50 degree cameras, as a fraction of the image


def has_opengl():
    try:
        opengl.shared_context()
    except opengl.Unavailable:
        return False
    return True


needs_opengl = pytest.mark.skipif(not has_opengl(), reason="there is no OpenGL with EGL here")
each_backend = pytest.mark.parametrize("backend", [pytest.param("gl", marks=needs_opengl), "embree"])


def ball(radius=1.0, centre=(0, 0, 0), subdivisions=4, smooth=True):
    sphere = trimesh.creation.icosphere(subdivisions)
    return Mesh(sphere.vertices * radius + centre, sphere.faces, sphere.vertices if smooth else None)


def screen(side=1.0, x=0.0, **look):
    """A square in the plane of this x, upright for the camera on +x; uv as the image is seen from there."""
    vertices = np.array([[x, -side, side], [x, side, side], [x, side, -side], [x, -side, -side]])
    return Mesh(vertices, [[0, 2, 1], [0, 3, 2]], uv=[[0, 0], [1, 0], [1, 1], [0, 1]], **look)


def filling(distance=2.0):
    """A camera on +x whose image is exactly the square with corners (0, +-1, +-1)."""
    camera = orbit([0.0], 0.0, distance)
    return Cameras(camera.cam_to_world, torch.tensor([[distance / 2, distance / 2, 0.5, 0.5]]))


def opaque(pixels):
    return np.dstack([np.asarray(pixels, np.uint8), np.full(np.shape(pixels)[:2], 255, np.uint8)])


def bytes_of(views, index=0):
    return (views.rgb[index] * 255).round().int().permute(1, 2, 0).numpy()


@pytest.mark.slow
@each_backend
def test_render_of_a_ball_covers_the_disc_that_geometry_says(backend):
    radius, distance, size = 0.7, 2.5, 96
    views = render_views([ball(radius, subdivisions=5)], orbit([20.0, 200.0], 35.0, distance), size, backend=backend)
    disc = FOCAL * radius / math.sqrt(distance**2 - radius**2) * size  # in pixels: the tangent cone's opening
    for alpha in views.alpha[:, 0]:
        assert alpha.sum().item() == pytest.approx(math.pi * disc**2, rel=3e-3)
        rows = torch.arange(size) + 0.5
        assert (alpha.sum(0) @ rows / alpha.sum()).item() == pytest.approx(size / 2, abs=0.02)
        assert (alpha.sum(1) @ rows / alpha.sum()).item() == pytest.approx(size / 2, abs=0.02)


@each_backend
@pytest.mark.parametrize("intrinsics", [(FOCAL, FOCAL, 0.5, 0.5), (1.3, 0.8, 0.4, 0.55)])
def test_render_puts_a_speck_off_the_axis_on_its_pixel(backend, intrinsics):
    place, distance, size = np.array([0.3, -0.4, 0.25]), 3.0, 128
    camera = Cameras(orbit([0.0], 0.0, distance).cam_to_world, torch.tensor([intrinsics]))
    views = render_views([ball(0.03, place, 2)], camera, size, backend=backend)
    fx, fy, cx, cy = intrinsics
    right, down, ahead = place[1], -place[2], distance - place[0]
    alpha, middle = views.alpha[0, 0], torch.arange(size) + 0.5
    assert (alpha.sum(0) @ middle / alpha.sum()).item() == pytest.approx((cx + fx * right / ahead) * size, abs=0.05)
    assert (alpha.sum(1) @ middle / alpha.sum()).item() == pytest.approx((cy + fy * down / ahead) * size, abs=0.05)


@each_backend
def test_render_depth_is_the_camera_z_of_a_tilted_plane_at_pixel_centres(backend):
    # The plane x = 0.5 z, seen from (2, 0, 0): at the image height h = z / depth it is 2 / (1 + 0.5 h) away.
    quad = screen()
    quad = dataclasses.replace(quad, vertices=quad.vertices + 0.5 * quad.vertices[:, 2:] * [1, 0, 0])
    views = render_views([quad], orbit([0.0], 0.0, 2.0), 33, backend=backend, supersample=2)
    height = (0.5 - (torch.arange(33) + 0.5) / 33) / FOCAL
    expected = (2 / (1 + 0.5 * height))[:, None].expand(33, 33)
    seen = views.depth[0, 0] > 0
    assert seen.float().mean() > 0.7
    torch.testing.assert_close(views.depth[0, 0][seen], expected[seen], atol=2e-5, rtol=0)


@each_backend
@pytest.mark.parametrize("inside_out", [False, True])
def test_render_normals_are_in_world_axes_and_face_the_camera(backend, inside_out):
    sphere = ball()
    if inside_out:
        sphere = dataclasses.replace(sphere, faces=sphere.faces[:, ::-1])
    cameras = structured_cameras()
    views = render_views([sphere], cameras, 48, backend=backend)
    rays = cameras.rays(48, 48)
    ahead = (rays.directions * cameras.cam_to_world[:, None, None, :3, 2]).sum(-1, keepdim=True)
    points = rays.origins + rays.directions / ahead * views.depth.permute(0, 2, 3, 1)
    seen = views.depth[:, 0] > 0
    outward = torch.nn.functional.normalize(points[seen], dim=-1)
    torch.testing.assert_close(views.normals.permute(0, 2, 3, 1)[seen], outward, atol=0.01, rtol=0)
    assert views.normals.permute(0, 2, 3, 1)[~seen].abs().max() == 0


@each_backend
def test_render_of_a_mesh_without_normals_is_flat(backend):
    cube = trimesh.creation.box((1, 1, 1))
    views = render_views([Mesh(cube.vertices, cube.faces)], orbit([30.0], 20.0), 64, backend=backend)
    seen = views.normals[0].permute(1, 2, 0)[views.depth[0, 0] > 0]
    faces = torch.unique(seen.round(decimals=4), dim=0)
    assert sorted(faces.tolist()) == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


@each_backend
def test_texture_is_upright_and_unmirrored(backend):
    red, green, blue, grey = [255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 91, 92]
    picture = opaque([[red, green], [blue, grey]])
    views = render_views([screen(texture=picture, wrap=("clamp", "clamp"))], filling(), 32, backend=backend)
    seen = bytes_of(views)
    corners = [seen[2, 2], seen[2, 29], seen[29, 2], seen[29, 29]]  # a quarter pixel of the texture from its corners
    np.testing.assert_array_equal(corners, [red, green, blue, grey])
    quad = screen(texture=picture, wrap=("clamp", "clamp"))
    behind = bytes_of(render_views([quad], orbit([180.0], 0.0, 3.0), 33, backend=backend))
    assert behind[12, 12].argmax() == 1  # from behind, left and right change places and top stays
    assert behind[12, 20].argmax() == 0


@each_backend
@pytest.mark.parametrize(
    ("wrap", "quarters"), [("repeat", [200, 9, 200, 9]), ("mirror", [9, 9, 200, 200]), ("clamp", [9, 9, 200, 200])]
)
def test_texture_wraps_as_its_mode_says(backend, wrap, quarters):
    picture = np.full((2, 64, 3), 9)
    picture[:, 32:] = 200
    quad = screen(texture=opaque(picture), wrap=(wrap, "repeat"))
    # u from -0.5 to 1.5: the image fills the two middle quarters of the view
    wide = dataclasses.replace(quad, uv=np.array([[-0.5, 0], [1.5, 0], [1.5, 1], [-0.5, 1]]))
    assert bytes_of(render_views([wide], filling(), 32, backend=backend))[16, [4, 12, 20, 28], 0].tolist() == quarters


@each_backend
def test_texture_that_is_mirrored_runs_back(backend):
    stripes = opaque(np.repeat([10, 20, 30, 40], 16)[None, :, None] * np.ones((2, 1, 3)))
    quad = screen(texture=stripes, wrap=("mirror", "clamp"))
    wide = dataclasses.replace(quad, uv=np.array([[1, 0], [3, 0], [3, 1], [1, 1]]))
    seen = bytes_of(render_views([wide], filling(), 64, backend=backend))[32, 4::8, 0]
    assert seen.tolist() == [40, 30, 20, 10, 10, 20, 30, 40]


@each_backend
def test_texture_bytes_survive_flat_light(backend):
    patches = np.arange(256).reshape(16, 16).repeat(8, 0).repeat(8, 1)
    picture = opaque(np.dstack([patches, 255 - patches, patches[::-1]]))
    views = render_views([screen(texture=picture)], filling(), 64, backend=backend)
    np.testing.assert_array_equal(bytes_of(views)[1::4, 1::4], picture[4::8, 4::8, :3])


@each_backend
def test_texture_colours_mix_in_linear_light(backend):
    black_to_white = screen()
    black_to_white = dataclasses.replace(black_to_white, colors=np.array([0, 1, 1, 0])[:, None] * np.ones(3))
    views = render_views([black_to_white], filling(), 33, backend=backend)
    assert bytes_of(views)[16, 16, 0] in (187, 188)  # sRGB of one half (0.7353569 x 255 = 187.5)
    left, right = screen(0.5, base_color=(0, 0, 0, 1)), screen(0.5, base_color=(1, 1, 1, 1))
    left = dataclasses.replace(left, vertices=left.vertices - np.array([0, 0.5, 0]))
    right = dataclasses.replace(right, vertices=right.vertices + np.array([0, 0.5, 0]))
    averaged = bytes_of(render_views([left, right], filling(), 33, supersample=2, backend=backend))
    assert averaged[16, 15:18, 0].tolist() in ([0, 187, 255], [0, 188, 255])


@each_backend
def test_base_colour_multiplies_texture_and_vertex_colour_in_linear_light(backend):
    picture = opaque(np.full((2, 2, 3), 188))
    quad = screen(texture=picture, base_color=(0.5, 1.0, 0.25, 1), colors=np.full((4, 3), 0.7353569))
    light = 0.5028865 * 0.5 * np.array([0.5, 1.0, 0.25])
    expected = (1.055 * light ** (1 / 2.4) - 0.055) * 255
    np.testing.assert_allclose(bytes_of(render_views([quad], filling(), 8, backend=backend))[4, 4], expected, atol=0.51)


@each_backend
def test_render_edges_keep_the_surfaces_own_colour(backend):
    sphere = dataclasses.replace(ball(), base_color=(0.2, 0.5, 0.9, 1))
    views = render_views([sphere], structured_cameras(), 48, backend=backend)
    colors = views.rgb.permute(0, 2, 3, 1)[views.alpha[:, 0] > 0]
    assert ((views.alpha > 0.2) & (views.alpha < 0.8)).any()
    assert (colors.amax(0) - colors.amin(0)).max() <= 1 / 255 + 1e-6
    assert views.rgb.permute(0, 2, 3, 1)[views.alpha[:, 0] == 0].abs().max() == 0


@each_backend
def test_cutout_material_is_transparent_where_it_is_cut_out(backend):
    fence = opaque(np.full((4, 64, 3), 255))
    fence[:, :32, 3] = 100  # the left half is more transparent than the cut-off allows
    front = screen(texture=fence, alpha_cutoff=0.5, base_color=(1, 0, 0, 1), wrap=("clamp", "clamp"))
    wall = screen(0.3, x=-0.5, base_color=(0, 0, 1, 1))
    views = render_views([front, wall], filling(), 32, backend=backend)
    seen, alpha, depth = bytes_of(views), views.alpha[0, 0], views.depth[0, 0]
    assert seen[16, 24].tolist() == [255, 0, 0]
    assert depth[16, 24] == pytest.approx(2.0, abs=1e-5)
    assert seen[16, 14].tolist() == [0, 0, 255]  # the wall through the hole
    assert depth[16, 14] == pytest.approx(2.5, abs=1e-5)
    assert alpha[16, 4] == 0  # the hole and nothing behind
    assert depth[16, 4] == 0
    solid = render_views([dataclasses.replace(front, alpha_cutoff=0.0)], filling(), 32, backend=backend)
    assert solid.alpha.min() == 1


@each_backend
def test_base_colour_alpha_counts_against_the_cut_off(backend):
    # 0.8 x 150 / 255 is below one half, 0.8 x 200 / 255 is not
    picture = np.full((2, 64, 4), 255, np.uint8)
    picture[:, :32, 3], picture[:, 32:, 3] = 150, 200
    faint = screen(texture=picture, alpha_cutoff=0.5, base_color=(1, 1, 1, 0.8), wrap=("clamp", "clamp"))
    shown = render_views([faint], filling(), 16, backend=backend).alpha[0, 0]
    assert (shown[8, 4], shown[8, 12]) == (0, 1)
    invisible = dataclasses.replace(screen(), alpha_cutoff=0.5, base_color=(1, 1, 1, 0.4))
    with pytest.raises(ValueError, match="empty or transparent"):
        render_views([invisible], filling(), 16, backend=backend)


@each_backend
def test_soft_light_is_fixed_in_the_world(backend):
    cube = trimesh.creation.box((1, 1, 1))
    cameras = orbit([10.0, 80.0], [40.0, 50.0])
    views = render_views([Mesh(cube.vertices, cube.faces)], cameras, 64, lighting="soft", backend=backend)
    up = views.normals[:, 2] > 0.99
    inside = up & (views.alpha[:, 0] == 1)
    # 0.40 + 0.35 + 0.25 x 0.6 = 0.90 on what looks up: sRGB 0.95469
    for k in range(2):
        shades = views.rgb[k, 0][inside[k]]
        assert shades.median().item() * 255 == pytest.approx(0.95469 * 255, abs=0.51)
    side = views.rgb[:, 0][(views.normals[:, 0] > 0.99) & (views.alpha[:, 0] == 1)].median().item()
    assert side * 255 == pytest.approx(255 * (1.055 * (0.4 + 0.175 + 0.25 * 0.48) ** (1 / 2.4) - 0.055), abs=0.51)


@each_backend
def test_render_of_an_object_turned_by_a_quarter_shows_the_next_view(backend):
    solid = [ball(0.5, (0.2, 0.3, -0.2), smooth=False), ball(0.3, (-0.4, 0.1, 0.4), smooth=False)]
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])  # +x to +y
    turned = [dataclasses.replace(mesh, vertices=mesh.vertices @ turn.T) for mesh in solid]
    before, after = (render_views(meshes, structured_cameras(), 48, backend=backend) for meshes in (solid, turned))
    for k in range(4):
        assert (before.alpha[k] - after.alpha[(k + 1) % 4]).abs().sum() < 1
        both = (before.depth[k] > 0) & (after.depth[(k + 1) % 4] > 0)
        torch.testing.assert_close(before.depth[k][both], after.depth[(k + 1) % 4][both], atol=2e-3, rtol=0)


@each_backend
def test_render_from_inside_shows_the_far_wall_and_a_camera_that_looks_away_nothing(backend):
    inside = orbit([0.0], 0.0, 0.5)  # stands at (0.5, 0, 0), looks towards -x
    views = render_views([ball(subdivisions=5)], inside, 17, backend=backend)
    assert views.alpha.min() == 1
    assert views.depth[0, 0, 8, 8] == pytest.approx(1.5, abs=2e-3)
    assert views.normals[0, 0, 8, 8] == pytest.approx(1.0, abs=1e-3)  # towards the camera
    away = Cameras(inside.cam_to_world @ torch.diag(torch.tensor([1.0, -1, -1, 1])), inside.intrinsics)
    outside = Cameras(away.cam_to_world.clone(), away.intrinsics)
    outside.cam_to_world[0, 0, 3] = 5.0
    assert render_views([ball()], outside, 17, backend=backend).alpha.max() == 0


@each_backend
def test_views_take_the_shape_of_their_cameras(backend):
    cameras = orbit([[0.0, 40.0, 80.0], [120.0, 160.0, 200.0]], 10.0)
    views = render_views([ball(0.5, (0.3, 0.2, 0.1), 2)], cameras, 16, backend=backend)
    assert views.rgb.shape == (2, 3, 3, 16, 16)
    one = render_views([ball(0.5, (0.3, 0.2, 0.1), 2)], cameras[1, 2], 16, backend=backend)
    torch.testing.assert_close(one.depth, views.depth[1, 2], atol=1e-5, rtol=0)


@pytest.mark.slow
@needs_opengl
def test_opengl_and_embree_agree():
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).repeat(8, 0).repeat(8, 1)
    picture = opaque(noise)
    picture[:24, :24, 3] = 0
    sphere = trimesh.creation.uv_sphere(0.6, [24, 24])
    uv = np.stack([np.arctan2(sphere.vertices[:, 1], sphere.vertices[:, 0]) / 3, sphere.vertices[:, 2]], 1)
    parts = [
        Mesh(sphere.vertices, sphere.faces, uv=uv, texture=picture, wrap=("mirror", "repeat"), alpha_cutoff=0.5),
        Mesh(sphere.vertices / 2 + [0.5, 0.4, 0.5], sphere.faces, colors=np.abs(sphere.vertices / 0.6)),
    ]
    cameras = Cameras.cat([structured_cameras(), orbit([0.0, 77.0], [-30.0, 80.0], 2.2, 60.0)])
    gl, rays = (render_views(parts, cameras, 64, lighting="soft", backend=name) for name in ("gl", "embree"))
    assert (gl.alpha - rays.alpha).abs().max() < 0.25  # two of nine samples
    assert (gl.alpha - rays.alpha).abs().mean() < 1e-3
    solid = ((gl.alpha == 1) & (rays.alpha == 1)).expand_as(gl.rgb)
    difference = (gl.rgb - rays.rgb).abs()[solid]
    assert difference.mean() < 1 / 255
    assert (difference > 2.5 / 255).float().mean() < 0.01
    met = (gl.depth > 0) & (rays.depth > 0)
    assert ((gl.depth > 0) != (rays.depth > 0)).float().mean() < 1e-3
    assert ((gl.depth - rays.depth).abs()[met] > 1e-4).float().mean() < 2e-3
    assert ((gl.normals - rays.normals).abs().amax(1, keepdim=True)[met] > 1e-3).float().mean() < 5e-3


@pytest.mark.slow
@each_backend
def test_render_makes_no_maps_that_are_not_requested(backend, monkeypatch):
    def drawn(*maps):
        return render_views([ball(0.5)], structured_cameras(), 32, backend=backend, maps=maps)

    both = drawn("depth", "normals")
    assert torch.equal(drawn("normals").normals, both.normals)
    assert drawn("normals").depth is None
    monkeypatch.setattr(opengl, "GEOMETRY", "no shader")  # what each back end draws normals by
    monkeypatch.setattr(embree._Caster, "normals", None)
    assert torch.equal(drawn("depth").depth, both.depth)
    assert drawn("depth").normals is None
    monkeypatch.setattr(opengl, "DEPTH", "no shader")
    monkeypatch.setattr(embree, "_surface", None)
    assert torch.equal(drawn().rgb, both.rgb)
    assert drawn().depth is None


def test_texture_is_halved_in_linear_light_and_by_its_alpha():
    picture = np.zeros((4, 4, 4), np.uint8)
    picture[..., 3] = 255
    picture[::2, :2, :3] = 255  # upper left and lower left blocks: half white, half black
    picture[:2, 2:] = [[10, 20, 30, 255], [200, 200, 200, 0]]  # what is invisible has no say in the colour
    small = halved(picture, 2)
    assert small.shape == (2, 2, 4)
    assert small[0, 0].tolist() == [188, 188, 188, 255]
    assert small[0, 1].tolist() == [10, 20, 30, 128]
    assert halved(picture, 3) is picture


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"lighting": "moon"}, "lighting is one of"),
        ({"backend": "pen"}, "backend one of"),
        ({"size": 0}, "at least 1"),
        ({"supersample": 0}, "at least 1"),
        ({"cameras": orbit([], 0.0)}, "no camera"),
        ({"cameras": orbit([math.nan], 0.0)}, "not finite"),
        ({"cameras": Cameras(torch.zeros(1, 4, 4), torch.ones(1, 4))}, "singular"),
        ({"meshes": []}, "no triangle"),
    ],
)
def test_render_views_refuses_invalid_input(change, because):
    arguments = {"meshes": [ball(subdivisions=1)], "cameras": filling(), "size": 8} | change
    with pytest.raises(ValueError, match=because):
        render_views(**arguments)


def test_embree_casts_rays_where_there_is_no_opengl(monkeypatch):
    def missing():
        raise opengl.Unavailable("no libEGL")

    monkeypatch.setattr(opengl, "shared_context", missing)
    assert chosen("auto") == "embree"
    with pytest.raises(ValueError, match="no libEGL"):
        chosen("gl")
    monkeypatch.setattr(embree, "available", lambda: False)
    with pytest.raises(ValueError, match=r"no libEGL.*install libegl1, or embreex"):
        chosen("auto")
