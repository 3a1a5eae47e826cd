"""Objects from integer seeds: their solids, their looks, and whether their captions are true."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from skimage.color import deltaE_cie76, rgb2lab

from data_prep.procedural import colours, generate, primitive_ops, rotations, shapes, textures
from data_prep.procedural.assemblies import ASSEMBLIES
from data_prep.procedural.builder import NUMBERS, PLURALS, Builder, Part
from data_prep.procedural.portable_rng import PortableRandom
from instant3d.mesh import load

SEEDS = range(120)
ROOT = Path(generate.__file__).parents[2]


@pytest.fixture(scope="module")
def things():
    return [generate.generate(seed) for seed in SEEDS]


def solid(*pieces):
    """A trimesh of welded vertices, without the triangles that welding closed up."""
    whole = shapes.joined(pieces)
    first, place = shapes.weld(whole.vertices)
    faces = place[whole.faces]
    faces = faces[[len(set(face)) == 3 for face in faces.tolist()]]
    return trimesh.Trimesh(whole.vertices[first], faces, process=False)


def is_closed(mesh):
    """Every edge is walked as often one way as the other: no rim anywhere (solids may touch along an edge)."""
    edges = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    there = sorted(map(tuple, edges.tolist()))
    return there == sorted((b, a) for a, b in there)


def digest(things):
    total = hashlib.sha256()
    for thing in things:
        total.update(thing.caption.encode())
        for part in thing.parts:
            total.update(np.rint(part.shape.vertices / shapes.GRID).astype("<i4").tobytes())
            total.update(part.shape.faces.astype("<i4").tobytes())
            total.update(np.rint(part.shape.uv * 1024).astype("<i4").tobytes())
            total.update(part.texture.pixels.tobytes())
    return total.hexdigest()


# --- the same on every machine


@pytest.mark.slow
def test_generate_gives_the_same_object_for_a_seed_in_any_process(things):
    script = "from tests.data_prep.procedural.test_procedural import digest, generate\n"
    script += "print(digest(generate.generate(seed) for seed in range(12)))"
    environment = os.environ | {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == digest(things[:12])


@pytest.mark.slow
def test_generate_gives_the_objects_of_earlier_versions(things):
    uncut = [thing for thing in things[:40] if "cut by" not in thing.caption]
    assert digest(uncut) == "6214549c74dbc01847a1cab0b8ce69d82fc2463e35ab9c76d5c40044e99f40ff"


def test_random_numbers_are_the_published_pcg64_words():
    expected = np.random.Generator(np.random.PCG64(5)).random(4)  # numpy's doubles: 53 high bits of each word
    dice = PortableRandom(5)
    assert [dice.uniform() for _ in range(4)] == expected.tolist()
    assert PortableRandom(5).uniforms(4).tolist() == expected.tolist()


def test_pick_takes_each_as_often_as_its_weight_says():
    dice = PortableRandom(0)
    drawn = [dice.pick("abc", (1, 2, 5)) for _ in range(8000)]
    assert [drawn.count(letter) / 1000 for letter in "abc"] == pytest.approx([1, 2, 5], abs=0.15)


# --- solids


def volume(kind, half):
    """Closed forms for smooth primitives that fill the box of these half extents."""
    box = float(8 * np.prod(half))
    return {
        "cube": box,
        "sphere": box * np.pi / 6,
        "cylinder": box * np.pi / 4,
        "cone": box * np.pi / 12,
        "torus": 2 * np.pi**2 * 0.7 * 0.3**2 * half[0] * half[1] * half[2] / 0.3,
    }[kind]


@pytest.mark.parametrize("kind", primitive_ops.KINDS)
def test_primitive_patches_are_watertight_and_hold_the_volume_of_the_formula(kind):
    half = np.array([0.8, 0.5, 0.3])
    mesh = solid(shapes.assemble(primitive_ops.primitive_patches(kind, half, 0.5, 1, 96)))
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(volume(kind, half), rel=5e-3)
    np.testing.assert_allclose(mesh.bounds, [-half, half], atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", primitive_ops.KINDS)
def test_inside_agrees_with_the_mesh(kind):
    half = np.array([0.8, 0.5, 0.3])
    mesh = solid(shapes.assemble(primitive_ops.primitive_patches(kind, half, 0.5, 1, 96)))
    points = np.random.default_rng(0).uniform(-0.9, 0.9, (400, 3))
    assert np.mean(mesh.contains(points) != primitive_ops.inside(kind, half, points)) < 0.01


@pytest.mark.parametrize("kind", primitive_ops.KINDS)
def test_height_field_only_adds_and_leaves_no_gap(kind):
    half, dice = np.array([0.8, 0.5, 0.3]), PortableRandom(3)
    flat = primitive_ops.primitive_patches(kind, half, 0.5, 8, 24)
    bumpy = shapes.assemble([primitive_ops.displaced(patch, dice, 0.1) for patch in flat])
    assert solid(bumpy).is_watertight
    assert solid(bumpy).volume > 1.02 * solid(shapes.assemble(flat)).volume


def test_difference_takes_away_what_both_share_and_shows_the_inside():
    cube = shapes.box((2, 2, 2))
    cutter = shapes.moved(shapes.box((1, 1, 1)), shift=(1.0, 1.0, 1.0))  # an eighth of it lies in the cube: 1/8
    half_space = shapes.moved(shapes.box((2, 4, 4)), shift=(1.5, 0.0, 0.0))  # x > 0.5
    assert primitive_ops.difference(cube, [cutter]) is None  # 1.6 % is too little to speak of
    skin, inside = primitive_ops.difference(cube, [half_space])
    assert solid(skin, inside).is_watertight
    assert solid(skin, inside).volume == pytest.approx(6.0)
    np.testing.assert_allclose(inside.vertices[:, 0], 0.5)
    assert (shapes.normals(inside)[:, 0] > 0.99).all()  # it faces the gap


def test_wires_run_along_the_twelve_edges_of_a_cube():
    bars = primitive_ops.wires(shapes.box((1, 1, 1)), 0.1, 0.5)
    assert len(bars.faces) == 12 * 12
    assert solid(bars).volume == pytest.approx(12 * 0.01 * 1.08, rel=5e-3)


def test_prism_holds_its_area_times_its_depth():
    outline = np.array([(0, 0), (2, 0), (2, 1), (1, 0.4), (0, 1)])
    mesh = solid(shapes.prism(outline, 0.5))
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(0.5 * (2 - 2 * 0.6 / 2), rel=1e-4)  # the rectangle less the notch


def test_normals_of_a_sphere_point_along_its_radius():
    sphere = shapes.assemble(primitive_ops.primitive_patches("sphere", (1.0, 1.0, 1.0), 0.5, 1, 64))
    assert ((shapes.normals(sphere) * sphere.vertices).sum(-1) > 0.995).all()


def test_euler_turns_x_to_y_about_z_and_does_x_before_z():
    np.testing.assert_allclose(rotations.euler(0, 0, 90) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rotations.euler(90, 0, 90) @ [0, 1, 0], [0, 0, 1], atol=1e-12)


def test_random_rotations_are_rotations():
    dice = PortableRandom(1)
    for _ in range(20):
        np.testing.assert_allclose(np.linalg.det(rotations.random_rotation(dice)), 1)
        turn = rotations.random_rotation(dice)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)


# --- objects


@pytest.mark.slow
def test_generated_objects_just_fit_the_unit_sphere(things):
    for thing in things:
        points = np.concatenate([part.shape.vertices for part in thing.parts])
        assert 0.998 < np.linalg.norm(points, axis=1).max() <= 1
        np.testing.assert_allclose(points.min(0), -points.max(0), atol=1e-3)


@pytest.mark.slow
def test_generated_solids_are_closed_and_face_outwards(things):
    for thing in things:
        loose = list(thing.parts)
        while loose:
            pieces = [loose.pop(0)]
            if loose and pieces[0].noun and not loose[0].noun and "cut by" in thing.caption:
                pieces.append(loose.pop(0))  # the skin that the cut laid open
            mesh = solid(*(piece.shape for piece in pieces))
            assert is_closed(mesh)
            assert mesh.volume > 0


@pytest.mark.slow
def test_generated_shapes_that_are_named_show_outside_the_others(things):
    scattered = [t for t in things if not any(word in t.caption for word in (" with ", "cut by", "wireframe"))]
    checked = 0
    for thing in [thing for thing in scattered if 2 <= len(thing.parts) <= 4][:10]:
        meshes = [solid(part.shape) for part in thing.parts]
        for i, mesh in enumerate(meshes):
            hidden = [other.contains(mesh.vertices) for j, other in enumerate(meshes) if j != i]
            assert np.any(hidden, axis=0).mean() < 0.95
            checked += 1
    assert checked > 15


@pytest.mark.slow
def test_generate_makes_each_family_of_objects_as_often_as_meant(things):
    captions = [thing.caption for thing in things] + [generate.generate(seed).caption for seed in range(120, 200)]
    cut = np.mean(["cut by" in caption for caption in captions])
    wired = np.mean(["wireframe" in caption for caption in captions])
    scattered = 1 - generate.ASSEMBLED
    assert scattered * 0.28 < cut < scattered * 0.45
    assert scattered * 0.13 < wired < scattered * 0.27


@pytest.mark.slow
def test_generated_objects_of_many_seeds_all_differ(things):
    assert len({thing.caption for thing in things}) > 0.95 * len(things)


# --- words


def nearest_name_by_skimage(rgb):
    """The nearest name by scikit-image's own colour space."""
    names = list(colours.NAMED_COLOURS)
    table = rgb2lab(np.array(list(colours.NAMED_COLOURS.values())) / 255)
    return names[int(np.argmin(deltaE_cie76(table, rgb2lab(np.asarray(rgb) / 255))))]


def colour_words(words):
    """Colour names in a phrase, longest first: `dark red and tan` gives both."""
    pattern = "|".join(sorted(colours.NAMED_COLOURS, key=len, reverse=True))
    return re.findall(rf"\b(?:{pattern})\b", words)


def assert_colours_are_true(texture):
    named = colour_words(texture.words)
    pixels = texture.pixels.reshape(-1, 3)
    if len(named) == 1:
        assert nearest_name_by_skimage(pixels.mean(0)) == named[0], texture.words
        return
    assert len(named) == 2, texture.words
    palette, counts = np.unique(pixels, axis=0, return_counts=True)
    shown = np.array([nearest_name_by_skimage(colour) for colour in palette])
    for name in named:
        assert counts[shown == name].sum() > 0.04 * len(pixels), (texture.words, name)


@pytest.mark.slow
def test_colours_named_are_the_colours_seen(things):
    for texture in {part.texture.words: part.texture for thing in things for part in thing.parts}.values():
        assert_colours_are_true(texture)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", textures.PATTERNS, ids=lambda pattern: pattern.__name__)
def test_texture_patterns_have_the_colours_in_their_names(pattern):
    for seed in range(12):
        assert_colours_are_true(pattern(PortableRandom(seed)))


@pytest.mark.parametrize(
    "pattern", [p for p in textures.PATTERNS if p is not textures.shaded], ids=lambda p: p.__name__
)
def test_texture_patterns_repeat_without_a_seam(pattern):
    for seed in range(8):
        pixels = pattern(PortableRandom(seed)).pixels.astype(float)
        for axis in (0, 1):
            steps = np.abs(np.diff(pixels, axis=axis)).mean(axis=(1 - axis, 2))
            seam = np.abs(np.take(pixels, 0, axis) - np.take(pixels, -1, axis)).mean()
            assert seam <= steps.max() + 3


def counts_in(caption):
    """`two red legs and a tan top` -> [(2, "red legs"), (1, "tan top")]."""
    body = re.split(r" with |shapes: ", caption)[-1].split(", cut by ")[0]
    numbers = {"a": 1, "an": 1} | {word: i for i, word in enumerate(NUMBERS) if i > 1}
    words = "|".join(numbers)
    found = re.findall(rf"(?:^|, | and )({words}) (.+?)(?=, (?:{words}) | and (?:{words}) |$)", body)
    return [(numbers[number], phrase) for number, phrase in found]


def singular(phrase):
    back = {plural: noun for noun, plural in PLURALS.items()}
    *words, last = phrase.split()
    return " ".join([*words, back.get(last, last.removesuffix("s"))])


@pytest.mark.slow
def test_captions_count_what_is_there(things):
    counted = 0
    for thing in things:
        if "many" in thing.caption:
            continue
        for number, phrase in counts_in(thing.caption):
            name = singular(phrase) if number > 1 else phrase
            matching = [p for p in thing.parts if p.noun and name in (f"{p.texture.words} {p.noun}", p.noun)]
            assert len(matching) == number, (thing.caption, phrase)
            counted += number
    assert counted > 300


@pytest.mark.slow
def test_captions_of_scattered_shapes_name_every_part(things):
    for thing in things:
        named = [part for part in thing.parts if part.noun]
        if any(word in thing.caption for word in (" with ", "many")):
            continue
        if "shapes:" in thing.caption:
            assert thing.caption.startswith(f"{NUMBERS[len(named)]} shapes")
        if len(counts_in(thing.caption)) > 1:
            assert sum(number for number, _ in counts_in(thing.caption)) == len(named)


@pytest.mark.slow
@pytest.mark.parametrize("assembly", ASSEMBLIES, ids=lambda assembly: assembly.__name__)
def test_assembly_stands_on_its_own(assembly):
    for seed in range(3):
        builder = Builder(PortableRandom(seed))
        caption = builder.caption(assembly(builder))
        assert re.match(r"(an? |two |three |four |five )", caption)
        assert not re.match(r"a [aeiou]|an [^aeiou]", caption)
        assert all(is_closed(solid(part.shape)) for part in builder.parts)


def test_assembly_of_a_stool_has_as_many_legs_as_its_caption():
    builder = Builder(PortableRandom(4))
    caption = builder.caption(next(a for a in ASSEMBLIES if a.__name__ == "stool")(builder))
    legs = [part for part in builder.parts if part.noun == "leg"]
    assert f"{NUMBERS[len(legs)]} {legs[0].texture.words} legs" in caption
    assert all(part.shape.vertices[:, 2].min() < 0.1 for part in legs)


# --- files


def test_save_writes_the_object_upright_and_unmirrored(tmp_path):
    marker = Part(
        "box", shapes.moved(shapes.box((0.2, 0.4, 0.6)), shift=(0.1, 0.2, 0.3)), textures.plain((204, 38, 36))
    )
    thing = generate.Procedural((marker,), "a red box")
    generate.save(generate.meshes(thing), tmp_path / "marker.glb")
    raw = trimesh.load(tmp_path / "marker.glb", force="mesh", process=False)  # glTF axes: x, up, towards the viewer
    np.testing.assert_allclose(raw.bounds, [[0.0, 0.0, -0.4], [0.2, 0.6, 0.0]], atol=2e-4)
    back = load(tmp_path / "marker.glb")
    np.testing.assert_allclose(back[0].vertices.max(0), [0.2, 0.4, 0.6], atol=2e-4)


def test_texture_stands_upright_on_a_wall(tmp_path):
    texture = textures.shaded(PortableRandom(0))  # the first colour on top
    thing = generate.Procedural((Part("box", shapes.box((1, 1, 1)), texture),), "")
    (mesh,) = generate.meshes(thing)
    side = np.abs(mesh.normals[:, 2]) < 0.1
    rows = np.clip((mesh.uv[:, 1] * 64).astype(int), 0, 63)
    seen = mesh.texture[rows, 0, :3]
    top = side & (mesh.vertices[:, 2] > 0)
    assert (np.abs(seen[top].astype(int) - texture.pixels[0, 0]).max(-1) < 12).all()
    assert (np.abs(seen[side & ~top].astype(int) - texture.pixels[-1, 0]).max(-1) < 12).all()


def test_plain_colours_survive_the_file(tmp_path):
    colour = (120, 50, 158)
    thing = generate.Procedural((Part("box", shapes.box((1, 1, 1)), textures.plain(colour)),), "")
    generate.save(generate.meshes(thing), tmp_path / "box.glb")
    linear = np.array(load(tmp_path / "box.glb")[0].base_color[:3])
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    np.testing.assert_allclose(srgb * 255, colour, atol=0.5)


def test_generate_command_writes_files_and_a_manifest(tmp_path, capsys):
    assert generate.main(["-o", str(tmp_path), "--count", "3", "--first-seed", "18"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["split"]) for row in rows] == [(18, "train"), (19, "dev"), (20, "train")]
    for row in rows:
        assert set(row) == {"id", "file", "name", "split", "license", "source", "seed"}
        assert row["license"] == "CC0-1.0"
        assert row["name"] == generate.generate(row["seed"]).caption
        assert 0 < (tmp_path / row["file"]).stat().st_size < 400_000
        assert load(tmp_path / row["file"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(row["file"] for row in rows), "manifest.jsonl"]
    )


@pytest.mark.parametrize("wrong", [["--count", "0"], ["--first-seed", "-1"]])
def test_numbers_that_make_no_sense_are_refused_in_one_line(tmp_path, capsys, wrong):
    assert generate.main(["-o", str(tmp_path / "out"), *wrong]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
