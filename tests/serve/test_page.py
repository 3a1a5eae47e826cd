"""The page in a headless Chromium, under the policy of the server: what a person does with it, by mouse and by keys."""

import hashlib
import io
import json
import re
import time

import browser
import job_server
import numpy as np
import pytest
import trimesh
from PIL import Image

pytestmark = pytest.mark.slow

EVIL = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
PROMPT = "textarea#prompt"
DONE = {"state": "done", "position": None, "progress": None, "finished": "2026-01-01T00:01:12Z"}
STARTED = {"state": "running", "position": None, "started": "2026-01-01T00:01:00Z"}


def png(color, size=(64, 64)):
    data = io.BytesIO()
    Image.new("RGB", size, color).save(data, "PNG")
    return data.getvalue()


def red_ball():
    ball = trimesh.creation.icosphere(subdivisions=2)
    ball.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(baseColorFactor=(255, 0, 0, 255), roughnessFactor=1, metallicFactor=0)
    )
    return ball.export(file_type="glb")


VIEWS = {"grid.png": png("blue")}
FILES = {**VIEWS, "mesh.glb": red_ball()}


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium("--enable-unsafe-swiftshader") as running:
        yield running


@pytest.fixture
def served():
    with job_server.running() as (url, jobs):
        yield url, jobs


@pytest.fixture
def visit(chromium):
    """Opens an address; a breach of the policy or an exception in the page fails the test."""
    contexts, wrong = [], []

    def opened(url, expected=(), **context):
        contexts.append(chromium.new_context(**{"reduced_motion": "reduce", **context}))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith((url, "blob:", "data:")) else wrong.append(request.url))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [line for line in wrong if "401" not in line] == []


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def generate(page, prompt):
    page.fill(PROMPT, prompt)
    page.press(PROMPT, "Enter")


def share(page, is_color):
    """The share of the viewer's pixels of a colour, given as a condition on red, green and blue."""
    until(lambda: page.evaluate("document.querySelector('model-viewer')?.loaded"))
    pixels = np.asarray(Image.open(io.BytesIO(page.locator("#mesh").screenshot(timeout=90_000))).convert("RGB"), dtype=int)
    return is_color(*np.moveaxis(pixels, -1, 0)).mean()


def is_red(red, green, blue):
    return (red > 120) & (green < 0.6 * red) & (blue < 0.6 * red)


def is_grey(red, green, blue):
    return (abs(red - green) < 24) & (abs(green - blue) < 24) & (red < 190)


def test_prompt_becomes_views_then_a_mesh_on_the_canvas_and_a_download_that_opens(served, visit, tmp_path):
    url, jobs = served
    page = visit(url, accept_downloads=True)
    generate(page, "a red ball")
    page.locator("#jobs .state", has_text="next in line").wait_for()
    jobs.move("job0", **STARTED, progress={"part": "denoise", "done": 3, "total": 8})
    page.locator("#busy-text", has_text="3 of 8").wait_for()
    jobs.move("job0", VIEWS, progress={"part": "surface", "done": 0, "total": 1})
    until(lambda: page.evaluate("document.getElementById('image').naturalWidth") == 64)
    assert page.locator("#image").is_visible()
    jobs.move("job0", FILES, **DONE)
    assert 0.1 < share(page, is_red) < 0.9  # the ball, and what is behind it
    with page.expect_download() as waiting:
        page.click("#downloads a:has-text('mesh.glb')")
    waiting.value.save_as(tmp_path / "mesh.glb")
    assert trimesh.load(tmp_path / "mesh.glb", force="mesh").area == pytest.approx(4 * np.pi, rel=0.1)


def test_wireframe_and_clay_change_the_pixels_of_the_mesh(served, visit):
    url, jobs = served
    key = jobs.add("a red ball", {})["id"]
    jobs.move(key, FILES, **DONE, started="2026-01-01T00:01:00Z")
    page = visit(url, viewport={"width": 1000, "height": 700})
    solid = share(page, is_red)
    page.select_option("#surface", "wireframe")
    assert 0 < share(page, is_red) < 0.7 * solid
    page.select_option("#surface", "clay")
    assert share(page, is_red) == 0
    assert share(page, is_grey) > 0.5 * solid


def test_cancel_stops_the_job_of_its_row_alone(served, visit):
    url, jobs = served
    for name in ("first", "second"):
        jobs.add(name, {})
    jobs.move("job0", **STARTED)
    page = visit(url)
    page.click("#jobs li:has-text('second') .stop")
    until(lambda: page.locator("#jobs li").count() == 1)
    assert [job["state"] for job in jobs.jobs.values()] == ["running", "cancelled"]
    assert page.inner_text("#cards li") == "second\ncancelled"


def test_two_jobs_wait_in_the_order_in_which_they_were_sent(served, visit):
    url, jobs = served
    page = visit(url)
    for count, name in enumerate(("zebra", "ant"), start=1):
        generate(page, name)
        until(lambda count=count: page.locator("#jobs li").count() == count)
    assert page.locator("#jobs .name").all_inner_texts() == ["zebra", "ant"]
    assert [prompt for prompt, _, _ in jobs.requests] == ["zebra", "ant"]
    jobs.move("job0", **DONE, started=None)
    jobs.move("job1", position=0)
    until(lambda: page.locator("#jobs .name").all_inner_texts() == ["ant"])


def test_reload_in_the_middle_shows_the_same_job_and_goes_on_with_it(served, visit):
    url, jobs = served
    page = visit(url)
    generate(page, "a red ball")
    generate(page, "another")
    page.click("#jobs li:has-text('a red ball') .open")
    jobs.move("job0", VIEWS, **STARTED)
    page.locator("#image").wait_for()
    page.reload()
    page.locator("#image").wait_for()
    assert page.inner_text("#name") == "a red ball"
    jobs.move("job0", **STARTED, progress={"part": "texture", "done": 1, "total": 2})
    page.locator("#busy-text", has_text="1 of 2").wait_for()


def test_settings_of_the_form_are_sent_and_come_back_with_use_these_settings(served, visit):
    url, jobs = served
    page = visit(url)
    page.select_option("[name=preset]", "game")
    page.select_option("[name=faces]", "full")
    page.select_option("[name=texture]", "512")
    page.fill("[name=steps]", "8")
    page.fill("#seed", "7")
    generate(page, "a red ball")
    page.locator("#jobs li").wait_for()
    _, options, _ = jobs.requests[0]
    wanted = {"seed": 7, "steps": 8, "faces": "full", "texture": 512, "preset": "game", "formats": ["glb"], "video": True}
    assert options == {**wanted, "guidance": None, "negative_prompt": ""}
    page.reload()
    page.click("#again")
    assert [page.input_value(f"[name={name}]") for name in ("prompt", "seed", "steps", "faces")] == ["a red ball", "7", "8", "full"]


def test_images_are_sent_as_files_and_what_is_no_image_is_refused(served, visit):
    url, jobs = served
    page = visit(url)
    page.click("text=From images")
    page.set_input_files("#files", {"name": "a.gif", "mimeType": "image/gif", "buffer": b"GIF"})
    assert "a.gif is not" in page.inner_text("#problem")
    page.set_input_files("#files", [{"name": f"{k}.png", "mimeType": "image/png", "buffer": png("red")} for k in range(3)])
    page.click("[aria-label='Leave out 1.png']")
    page.click("#send")
    page.locator("#jobs li").wait_for()
    (_, _, body), *_ = jobs.requests
    assert re.findall(rb'name="(\w+)"(?:; filename="([\w.]+)")?', body) == [
        (b"options", b""),
        (b"images", b"0.png"),
        (b"images", b"2.png"),
    ]
    assert json.loads(re.search(rb"\{.*\}", body)[0])["seed"] == 0


def test_text_of_others_is_no_markup(served, visit):
    url, jobs = served
    jobs.add(EVIL, {"preset": EVIL})
    jobs.move("job0", state="failed", error=EVIL, command=EVIL)
    page = visit(url + "#job0")
    assert [page.inner_text(place) for place in ("#name", "#failure", "#command")] == [EVIL] * 3
    assert page.title() == "instant3d"


def test_token_is_asked_for_and_opens_the_page(visit):
    with job_server.running(token="secret") as (url, jobs):
        jobs.add("a red ball", {})
        page = visit(url)
        page.fill("#token", "wrong")
        page.press("#token", "Enter")
        page.locator("#login-problem:visible").wait_for()
        page.fill("#token", "secret")
        page.press("#token", "Enter")
        page.locator("#jobs li").wait_for()
        assert not page.locator("#login").is_visible()


def test_escape_keeps_an_asset_and_the_delete_button_removes_it(served, visit):
    url, jobs = served
    jobs.move(jobs.add("a red ball", {})["id"], state="cancelled")
    page = visit(url + "#job0")
    page.click("#remove")
    page.keyboard.press("Escape")
    assert not page.locator("#confirm").is_visible()
    assert list(jobs.jobs) == ["job0"]
    page.click("#remove")
    page.click("#confirm .danger")
    until(lambda: not jobs.jobs)
    page.locator("#none").wait_for()


def test_more_shows_what_the_first_answer_left_out(served, visit):
    url, jobs = served
    for k in range(50):
        jobs.move(jobs.add(str(k), {})["id"], state="cancelled")
    page = visit(url)
    page.click("#more")
    until(lambda: page.locator("#cards li").count() == 50)
    assert page.locator("#cards .name").all_inner_texts() == [str(k) for k in range(49, -1, -1)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_of_a_phone_is_no_wider_than_the_phone_and_every_field_has_a_name(served, visit, scheme):
    url, jobs = served
    jobs.move(jobs.add("x" * 300, {})["id"], VIEWS, state="failed", error="y" * 300, command="z" * 300)
    page = visit(url + "#job0", viewport={"width": 360, "height": 700}, color_scheme=scheme)
    page.locator("#image").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    tree = page.locator("body").aria_snapshot()
    assert not re.findall(r"^\s*- (?:button|textbox|combobox|checkbox|radio|spinbutton|slider|link)(?:$|[:\[])", tree, re.M)


def test_keys_alone_reach_every_control_in_the_order_of_the_page(served, visit):
    url, _ = served
    page = visit(url)
    page.locator("#formats label").first.wait_for(state="attached")
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.name || document.activeElement.id"))
    order = ["kind", "prompt", "preset", "faces", "texture", "steps", "seed", "dice", "send"]
    assert [name for name in reached if name in order] == order
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") is not None


def test_vendored_files_are_those_of_the_table():
    folder = job_server.PAGE / "vendor"
    table = dict(re.findall(r"^\| `([^`]+)` .*\| `([0-9a-f]{64})` \|$", (folder / "README.md").read_text(), re.M))
    assert {file.name for file in folder.iterdir()} == {*table, "README.md"}
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in table} == table
