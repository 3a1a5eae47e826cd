"""The API against its own OpenAPI document by schemathesis, and against uploads that are no uploads: never a 500."""

import io
import random
import zipfile
from collections.abc import Callable, Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import one_of
from PIL import Image
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi import checks as openapi_checks
from server_process import running

from benchmarks.server_process import ServerProcess

pytestmark = pytest.mark.slow

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.response_headers_conformance,
]


BOUNDED = settings(
    max_examples=6, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("data"), queue_limit=10_000) as process:
        yield process


def test_api_answers_as_its_document_says(server):
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [result.ok() for result in document.get_all_operations()]
    assert {operation.label for operation in operations} >= {"POST /api/v1/jobs", "DELETE /api/v1/jobs/{name}"}
    for operation in operations:
        strategies = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]
        BOUNDED(given(one_of(strategies))(checked_case(finished_job(server))))()


def checked_case(job: str) -> Callable[[schemathesis.Case], None]:
    """What is done with each generated request, once as it is and once for a job that exists."""

    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)
        if "name" in case.path_parameters:
            case.path_parameters["name"] = job
            case.call_and_validate(checks=CHECKS)

    return check


def finished_job(server: ServerProcess) -> str:
    return server.wait_for(server.submit("a hat"), 30)["id"]


def png(**options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG", **options)
    return stream.getvalue()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.choice([len(changed), rng.randrange(len(changed))])])


def test_api_answers_no_mutated_upload_with_a_server_error(server):
    rng, seeds = random.Random(0), {"images": png(), "scene": zipped(**{"transforms.json": b"{}", "0.png": png()})}
    codes = set()
    with httpx.Client(base_url=server.url) as client:
        for _ in range(60):
            part = rng.choice(list(seeds))
            files = {part: (rng.choice(["a.png", "../a.png", "\x00", ""]), mutated(seeds[part], rng))}
            answer = client.post("/api/v1/jobs", files=files, data={"options": rng.choice(["{}", "{", "[]", "{}" * 9])})
            codes.add(answer.status_code)
            assert answer.status_code == 202 or set(answer.json()) == {"error"}
    assert codes <= {202, 400, 413, 415, 422}
    assert codes >= {202, 415, 422}


def test_api_answers_no_mutated_body_with_a_server_error(server):
    rng = random.Random(0)
    request = httpx.Request("POST", server.url, files={"images": ("a.png", png())}, data={"options": "{}"})
    body, kind = request.read(), request.headers["content-type"]
    with httpx.Client(base_url=server.url) as client:
        answers = [
            client.post("/api/v1/jobs", content=mutated(body, rng), headers={"content-type": kind}) for _ in range(60)
        ]
    assert {answer.status_code for answer in answers} <= {202, 400, 413, 415, 422}


@pytest.mark.parametrize(
    "member", ["../evil.png", "/etc/evil.png", "a\\..\\evil.png", ".hidden.png", "evil.sh", "a/../../evil.png"]
)
def test_api_refuses_a_scene_whose_member_leads_out_of_it(server, tmp_path, member):
    files = {"scene": ("scene.zip", zipped(**{"transforms.json": b"{}", member: png()}))}
    answer = httpx.post(f"{server.url}/api/v1/jobs", files=files)
    assert answer.status_code == 422
    assert not list(tmp_path.parent.rglob("evil*"))


def test_api_serves_no_file_that_a_job_does_not_list(server):
    job = finished_job(server)
    names = ["..%2Fmade.log", "%2e%2e%2fmade.log", "/etc/passwd", "made.log", "%00", "result.json/..", "mesh.glb"]
    codes = [httpx.get(f"{server.url}/api/v1/jobs/{job}/files/{name}").status_code for name in names]
    assert codes == [404] * 6 + [200]
