"""The page in a headless Chromium, from the server and under its policy: what people do there, by mouse and keys."""

import hashlib
import io
import json
import re
import sys
import time

import browser
import numpy as np
import page_server
import pytest
import trimesh
from PIL import Image

from benchmarks.server_process import ServerProcess
from instant3d.serve.page_routes import PAGE
from instant3d.serve.settings import ServeSettings

pytestmark = pytest.mark.slow

SERVE = (sys.executable, "-m", "instant3d.cli.main", "serve", "--port", "0", "--data")
EVIL = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
PROMPT = "textarea#prompt"


def png(color):
    data = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(data, "PNG")
    return data.getvalue()


def red_ball():
    paint = trimesh.visual.material.PBRMaterial(baseColorFactor=(255, 0, 0, 255), roughnessFactor=1, metallicFactor=0)
    ball = trimesh.creation.icosphere(subdivisions=2)
    ball.visual = trimesh.visual.TextureVisuals(material=paint)
    return ball.export(file_type="glb")


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    file = tmp_path_factory.mktemp("views") / "grid.png"
    file.write_bytes(png("blue"))
    return file


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    file = tmp_path_factory.mktemp("mesh") / "mesh.glb"
    file.write_bytes(red_ball())
    return file


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium("--enable-unsafe-swiftshader") as running:
        yield running


@pytest.fixture
def token():
    return None


@pytest.fixture
def served(tmp_path, token):
    with page_server.running(tmp_path, token) as server:
        yield server


@pytest.fixture
def visit(chromium):
    """Opens the page; a breach of the policy, a foreign address or an exception in the page fails the test."""
    contexts, wrong = [], []

    def opened(url, **context):
        contexts.append(chromium.new_context(reduced_motion="reduce", **context))
        contexts[-1].set_default_timeout(120_000)  # on busy machines
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        own = (url.partition("#")[0], "blob:", "data:")
        page.on("request", lambda sent: None if sent.url.startswith(own) else wrong.append(sent.url))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [line for line in wrong if "responded with a status" not in line] == []


def until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def generate(page, prompt):
    """Sends a prompt by Enter, and waits until it has been taken."""
    page.fill(PROMPT, prompt)
    with page.expect_response(lambda answer: answer.request.method == "POST" and answer.status == 202):
        page.press(PROMPT, "Enter")


def share(page, is_color):
    """The share of the viewer's pixels of a colour, given as a condition on red, green and blue."""
    until(lambda: page.evaluate("document.querySelector('model-viewer')?.loaded"))
    shot = page.locator("#mesh").screenshot(timeout=90_000)
    return is_color(*np.moveaxis(np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), dtype=int), -1, 0)).mean()


def is_red(red, green, blue):
    return (red > 120) & (green < 0.6 * red) & (blue < 0.6 * red)


def is_grey(red, green, blue):
    return (abs(red - green) < 24) & (abs(green - blue) < 24) & (red < 215)


def test_prompt_becomes_views_then_a_mesh_on_the_canvas_and_a_download_that_opens(served, visit, views, mesh, tmp_path):
    page = visit(served.url, accept_downloads=True, viewport={"width": 500, "height": 500})
    generate(page, "a red ball")
    served.progress("denoise", 3, 8)
    page.locator("#busy-text", has_text="3 of 8").wait_for()
    served.progress("surface", files=[views])
    until(lambda: page.evaluate("document.getElementById('image').naturalWidth") == 64)
    assert page.locator("#image").is_visible()
    served.progress("video", files=[mesh])  # the turntable comes after it
    assert 0.1 < share(page, is_red) < 0.9  # the ball, and what is behind it
    served.finish()
    with page.expect_download() as waiting:
        page.click("#downloads a:has-text('mesh.glb')")
    waiting.value.save_as(tmp_path / "saved.glb")
    assert trimesh.load(tmp_path / "saved.glb", force="mesh").area == pytest.approx(4 * np.pi, rel=0.1)


def test_prompt_on_a_server_of_the_command_becomes_a_red_hydrant_of_the_bundled_weights(visit, tmp_path):
    server = ServerProcess([*SERVE, str(tmp_path / "data")], tmp_path / "server.log")
    try:
        page = visit(f"{server.url}/", accept_downloads=True, viewport={"width": 500, "height": 500})
        page.fill("[name=steps]", "8")
        generate(page, "a red fire hydrant")
        until(lambda: page.evaluate("document.getElementById('image').naturalWidth") == 256, 600)  # 2 x 2 views
        page.locator("#downloads a:has-text('mesh.glb')").wait_for(timeout=600_000)
        assert 0.02 < share(page, is_red) < 0.9
        with page.expect_download() as waiting:
            page.click("#downloads a:has-text('mesh.glb')")
        waiting.value.save_as(tmp_path / "saved.glb")
    finally:
        server.end()
    mesh = trimesh.load(tmp_path / "saved.glb", force="mesh")
    assert 1000 < len(mesh.faces) <= 20_000
    assert mesh.visual.material.baseColorTexture.size == (1024, 1024)


def test_wireframe_and_clay_change_the_pixels_of_the_mesh(served, visit, mesh):
    served.add("a red ball")
    served.finish([mesh])
    page = visit(served.url, viewport={"width": 500, "height": 500})
    solid = share(page, is_red)
    page.select_option("#surface", "wireframe")
    assert 0 < share(page, is_red) < 0.7 * solid
    page.select_option("#surface", "clay")
    assert share(page, is_red) == 0
    assert share(page, is_grey) > 0.5 * solid


def test_cancel_stops_the_job_of_its_row_alone(served, visit):
    for name in ("first", "second"):
        served.add(name)
    served.progress("denoise", 1, 8)
    page = visit(served.url)
    page.click("#jobs li:has-text('second') .stop")
    until(lambda: page.locator("#jobs li").count() == 1)
    assert [job["state"] for job in served.jobs()] == ["running", "cancelled"]
    assert page.inner_text("#cards li").split() == ["second", "cancelled"]
    page.click("#jobs .stop")
    until(lambda: not page.locator("#queue").is_visible())
    assert [job["state"] for job in served.jobs()] == ["cancelled", "cancelled"]


def test_two_jobs_run_in_the_order_in_which_they_were_sent(served, visit, views):
    page = visit(served.url)
    for name in ("zebra", "ant"):
        generate(page, name)
    page.locator("#jobs li").nth(1).wait_for()
    assert page.locator("#jobs .name").all_inner_texts() == ["zebra", "ant"]
    for left in (["ant"], []):
        served.finish([views])
        until(lambda left=left: page.locator("#jobs .name").all_inner_texts() == left)
    assert [job["prompt"] for job in sorted(served.jobs(), key=lambda job: job["finished"])] == ["zebra", "ant"]


def test_reload_in_the_middle_shows_the_same_job_and_goes_on_with_it(served, visit, views):
    page = visit(served.url)
    generate(page, "a red ball")
    generate(page, "another")
    served.progress("reconstruct", files=[views])
    page.locator("#image").wait_for()
    page.reload()
    page.locator("#image").wait_for()
    assert page.inner_text("#name") == "a red ball"
    served.progress("texture", 1, 2)
    page.locator("#busy-text", has_text="1 of 2").wait_for()


def test_settings_of_the_form_are_sent_and_come_back_with_use_these_settings(served, visit):
    page = visit(served.url)
    chosen = {"preset": "game", "faces": "full", "texture": "512"}
    for name, value in chosen.items():
        page.select_option(f"[name={name}]", value)
    until(lambda: page.get_attribute("[name=steps]", "placeholder") == "default (12)")  # as the weights recommend
    page.click("summary")
    for name, value in (("steps", "8"), ("seed", "7"), ("resolution", "64"), ("guidance", "4.25")):
        page.fill(f"[name={name}]", value)
    generate(page, "a red ball")
    (job,) = served.jobs()
    wanted = {"seed": 7, "steps": 8, "faces": "full", "texture": 512, "preset": "game", "formats": ["glb"]}
    wanted |= {"resolution": 64, "guidance": 4.25}
    assert {name: job["options"][name] for name in wanted} == wanted
    assert job["command"] == page.inner_text("#command")
    page.reload()
    page.click("#again")
    names = ("prompt", "seed", "steps", "faces", "texture", "resolution", "guidance")
    filled = [page.input_value(f"form [name={name}]") for name in names]
    assert filled == ["a red ball", "7", "8", "full", "512", "64", "4.25"]


def test_images_are_sent_as_files_and_what_is_no_image_is_refused(served, visit, tmp_path):
    page = visit(served.url)
    page.click("text=From images")
    page.set_input_files("#files", {"name": "a.gif", "mimeType": "image/gif", "buffer": b"GIF"})
    assert "a.gif is not" in page.inner_text("#problem")
    colors = ("red", "lime", "blue")
    images = [{"name": f"{color}.png", "mimeType": "image/png", "buffer": png(color)} for color in colors]
    page.set_input_files("#files", images)
    page.click("[aria-label='Leave out lime.png']")
    page.click("#send")
    page.locator("#jobs li").wait_for()
    assert [job["kind"] for job in served.jobs()] == ["images"]
    sent = sorted(tmp_path.glob("data/uploads/*/images/*.png"))
    assert [Image.open(file).getpixel((0, 0)) for file in sent] == [(255, 0, 0), (0, 0, 255)]


def test_errors_of_the_server_are_shown_in_its_words(served, visit):
    page = visit(served.url)
    page.fill(PROMPT, "a red ball")
    page.route("**/api/v1/jobs", lambda route: route.fulfill(status=429, json={"error": "the queue is full"}))
    page.press(PROMPT, "Enter")
    page.locator("#problem", has_text="the queue is full").wait_for()


def test_page_of_a_server_whose_models_cannot_be_loaded_shows_why(tmp_path, visit):
    answer = json.dumps({"event": "broken", "error": "weights/unet is damaged"})
    settings = ServeSettings(tmp_path, worker=(sys.executable, "-c", f"print({answer!r})"))
    with page_server.serving(settings) as url:
        page = visit(f"{url}/")
        page.locator("#trouble", has_text="weights/unet is damaged").wait_for()
        assert "loading the models" in page.inner_text("#server")


def test_text_of_others_is_no_markup(served, visit):
    name = served.add(EVIL)
    served.fail(EVIL)
    page = visit(f"{served.url}#{name}")
    page.locator("#failure:visible").wait_for()
    assert page.inner_text("#name") == page.inner_text("#failure") == EVIL
    assert EVIL in page.inner_text("#command")
    assert (page.title(), page.inner_text("#empty")) == ("instant3d", "Failed")


@pytest.mark.parametrize("token", ["secret-secret"])
def test_token_is_asked_for_and_opens_the_page(served, visit):
    served.add("a red ball")
    page = visit(served.url)
    for given, answer in (("wrong", "#login-problem:visible"), ("secret-secret", "#jobs li")):
        page.fill("#token", given)
        page.press("#token", "Enter")
        page.locator(answer).wait_for()
    assert not page.locator("#login").is_visible()


def test_escape_keeps_an_asset_and_the_delete_button_removes_it(served, visit):
    name = served.add("a red ball")
    served.fail("no surface")
    page = visit(f"{served.url}#{name}")
    page.click("#remove")
    page.keyboard.press("Escape")
    assert not page.locator("#confirm").is_visible()
    assert len(served.jobs()) == 1
    page.click("#remove")
    page.click("#confirm .danger")
    page.locator("#none").wait_for()
    assert served.jobs() == []


def test_more_shows_what_the_first_answer_left_out_though_its_last_job_was_deleted_since(served, visit):
    names = [served.add(str(k)) for k in range(30)]
    for name in names:
        served.api.delete(f"jobs/{name}")  # cancels it
    page = visit(served.url)
    page.locator("#cards li").nth(23).wait_for()
    served.api.delete(f"jobs/{names[6]}")
    page.click("#more")
    page.locator("#cards li").nth(29).wait_for()
    assert page.locator("#cards .name").all_inner_texts() == [str(k) for k in range(29, -1, -1)]
    assert not page.locator("#more").is_visible()


def test_asset_that_was_deleted_in_another_window_leaves_the_gallery(served, visit):
    gone = served.add("gone")
    served.fail("no surface")
    page = visit(served.url)
    page.locator("#cards li").wait_for()
    served.api.delete(f"jobs/{gone}")
    generate(page, "a red ball")
    page.locator("#none").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_of_a_phone_is_no_wider_than_the_phone_and_every_control_has_a_name(served, visit, views, scheme):
    name = served.add("x" * 300)
    served.progress("reconstruct", files=[views])
    served.fail("y" * 300)
    page = visit(f"{served.url}#{name}", viewport={"width": 360, "height": 700}, color_scheme=scheme)
    page.locator("#image").wait_for()
    page.locator("#failure:visible").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    tree = page.locator("body").aria_snapshot()
    control = r"^\s*- (?:button|textbox|combobox|checkbox|radio|spinbutton|slider|link)"
    assert len(re.findall(control + ' "', tree, re.M)) == len(re.findall(control, tree, re.M)) > 12


def test_tab_reaches_the_controls_in_the_order_of_the_page(served, visit):
    page = visit(served.url)
    page.locator("#formats label").first.wait_for(state="attached")
    reached = [""]
    while reached[-1] != "send" and len(reached) < 30:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.name || document.activeElement.id"))
    order = ["kind", "prompt", "preset", "faces", "texture", "steps", "seed", "dice", "send"]
    assert [name for name in reached if name in order] == order


def test_vendored_files_are_those_of_the_table():
    folder = PAGE / "vendor"
    table = dict(re.findall(r"^\| `([^`]+)` .*\| `([0-9a-f]{64})` \|$", (folder / "README.md").read_text(), re.M))
    assert {file.name for file in folder.iterdir()} == {*table, "README.md"}
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in table} == table
