"""Requests that the server refuses before it reads them."""

import contextlib

import httpx
import pytest
from server_process import running

from instant3d.serve.settings import ServeSettings

pytestmark = pytest.mark.slow

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


def refused(answer: httpx.Response, code: int) -> bool:
    return answer.status_code == code and set(answer.json()) == {"error"}


def test_server_refuses_a_form_that_the_page_of_another_site_sends(start_server):
    url = f"{start_server()}/api/v1/jobs"
    for site, code in (("cross-site", 403), ("same-site", 403), ("same-origin", 202)):
        answer = httpx.post(url, files={"images": ("a.png", PNG)}, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == code, site
    assert len(httpx.get(url, headers={"Sec-Fetch-Site": "cross-site"}).json()["jobs"]) == 1


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", ""])
def test_server_on_loopback_refuses_other_hosts_names(start_server, host):
    assert refused(httpx.get(f"{start_server()}/api/v1/jobs", headers={"Host": host}), 421)


def test_server_receives_no_more_of_a_body_without_a_length_once_it_is_too_large(start_server):
    sent = 0

    def large():
        nonlocal sent
        while sent < 2**30:
            sent += 2**20
            yield bytes(2**20)

    url, headers = f"{start_server()}/api/v1/jobs", {"Content-Type": "application/json"}
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # it closed the connection while the body was sent
        assert httpx.post(url, content=large(), headers=headers).status_code == 413
    assert sent < 2**29


def test_server_answers_with_security_headers_and_without_cors(start_server):
    url = start_server()
    for path in ("/", "/api/v1/health", "/api/v1/jobs/none", "/nothing"):
        headers = httpx.get(f"{url}{path}", headers={"Origin": "https://evil.example"}).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_server_refuses_a_body_by_its_stated_length_before_it_comes(start_server):
    url = start_server(upload_bytes=1000)
    answer = httpx.post(f"{url}/api/v1/jobs", content=bytes(1001), headers={"Content-Type": "application/json"})
    assert refused(answer, 413)
    assert "1,000 bytes" in answer.json()["error"]


def test_server_with_a_token_answers_nobody_else(start_server):
    url = start_server(token="a-long-secret")
    job = {"prompt": "a chair"}
    for headers in ({}, {"Authorization": "Bearer a-long-secreT"}, {"Authorization": "Basic a-long-secret"}):
        assert refused(httpx.post(f"{url}/api/v1/jobs", json=job, headers=headers), 401)
        for path in ("generate", "send", "3d/generations"):
            assert refused(httpx.post(f"{url}/{path}", json={"text": "a chair"}, headers=headers), 401)
        assert refused(httpx.get(f"{url}/openapi.json", headers=headers), 401)
    assert httpx.get(f"{url}/").status_code == 200  # the page, which asks for the token
    known = {"Authorization": "Bearer a-long-secret"}
    assert httpx.post(f"{url}/api/v1/jobs", json=job, headers=known).status_code == 202


def test_server_exchanges_its_token_for_a_cookie_that_scripts_cannot_read(start_server):
    with httpx.Client(base_url=start_server(token="a-long-secret")) as page:
        assert refused(page.post("/api/v1/login", json={"token": "a-long-guess"}), 401)
        assert page.get("/api/v1/jobs").status_code == 401
        cookie = page.post("/api/v1/login", json={"token": "a-long-secret"}).headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert page.get("/api/v1/jobs").status_code == 200


@pytest.mark.parametrize("settings", [{"host": "0.0.0.0"}, {"token": "short"}, {"workers": 0}, {"job_seconds": 0}])
def test_serve_settings_without_safety_or_sense_are_refused(tmp_path, settings):
    with pytest.raises(ValueError, match=r"token|above 0"):
        ServeSettings(tmp_path, **settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_serve_settings_take_loopback_addresses_without_a_token(tmp_path, host):
    assert ServeSettings(tmp_path, host).is_loopback


def test_server_logs_prompts_only_if_asked(tmp_path):
    with running(tmp_path) as server:
        job = httpx.post(f"{server.url}/api/v1/jobs", json={"prompt": "a chair of my own"}).json()
        assert job["state"] == "queued"
    assert "my own" not in server.log.read_text()
