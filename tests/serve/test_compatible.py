"""Requests of other servers' clients, as those send them."""

import base64
import time

import httpx
import pytest

pytestmark = pytest.mark.slow

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
ADDON = {
    "octree_resolution": 256,
    "num_inference_steps": 20,
    "guidance_scale": 5.5,
}  # always sent


@pytest.fixture
def http(start_server):
    with httpx.Client(base_url=start_server(), timeout=20) as client:
        yield client


def test_hunyuan_addon_receives_a_glb_for_a_text(http):
    answer = http.post("/generate", json={"text": "a red chair", **ADDON, "texture": True})
    assert (answer.status_code, answer.content[:4]) == (200, b"glTF")
    options = http.get("/api/v1/jobs").json()["jobs"][0]["options"]
    assert (options["steps"], options["guidance"], options["texture"]) == (20, 5.5, None)


def test_hunyuan_addon_receives_a_glb_for_an_image(http):
    image = base64.b64encode(PNG).decode()
    answer = http.post("/generate", json={"image": image, **ADDON, "texture": False})
    assert (answer.status_code, answer.content[:4]) == (200, b"glTF")


def test_hunyuan_addon_shows_why_a_job_failed(http):
    answer = http.post("/generate", json={"text": "a bad thing", **ADDON, "texture": True})
    assert answer.status_code != 200
    assert "no surface" in answer.text
    answer = http.post("/generate", json={"mesh": "AAAA", "text": "wood", **ADDON, "texture": True})
    assert (answer.status_code, "mesh is not textured" in answer.text) == (422, True)


def test_hunyuan_send_and_status_end_with_the_glb_in_base64(http):
    uid = http.post("/send", json={"text": "a chair"}).json()["uid"]
    until = time.monotonic() + 20
    while (status := http.get(f"/status/{uid}").json()) == {"status": "processing"} and time.monotonic() < until:
        time.sleep(0.05)
    assert status["status"] == "completed"
    assert base64.b64decode(status["model_base64"]).startswith(b"glTF")
    assert http.get("/status/nothing").status_code == 404


@pytest.mark.parametrize("kind", ["url", "b64_json"])
def test_localai_answers_with_an_address_or_the_content(http, kind):
    image = "data:image/png;base64," + base64.b64encode(PNG).decode()
    answer = http.post("/3d/generations", json={"model": "trellis2-4b", "image": image, "response_format": kind}).json()
    (item,) = answer["data"]
    content = http.get(item["url"]).content if kind == "url" else base64.b64decode(item["b64_json"])
    assert content.startswith(b"glTF")
    assert {"created", "id", "data"} == answer.keys()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "m"}, 422),
        ({"model": "m", "image": "not%%%base64"}, 422),
        ({"model": "m", "image": "https://example.com/a.png"}, 422),
        ({"model": "m", "image": base64.b64encode(b"%!PS-Adobe").decode()}, 415),
        ({"image": "AAAA"}, 422),
    ],
)
def test_localai_with_a_bad_image_is_one_sentence(http, fields, code):
    answer = http.post("/3d/generations", json=fields)
    assert answer.status_code == code
    assert answer.json().keys() == {"error"}
