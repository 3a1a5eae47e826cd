"""Requests that the server refuses before it reads them."""

import json

import httpx
import pytest

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


def test_server_answers_without_cors_and_with_security_headers(start_server):
    url = start_server()
    for path in ("/", "/api/v1/jobs", "/nothing"):
        headers = httpx.get(url + path, headers={"Origin": "https://evil.example"}).headers
        assert not [name for name in headers if name.startswith("access-control")]
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "server" not in headers


def test_server_refuses_a_body_whose_stated_length_is_too_large_before_it_comes(start_server):
    headers = {"Content-Type": "application/json", "Content-Length": str(10**15)}
    with httpx.stream("POST", f"{start_server()}/api/v1/jobs", headers=headers, content=iter([b"{"])) as answer:
        assert answer.status_code == 413


def test_server_refuses_a_body_without_a_length_as_soon_as_it_is_too_large(start_server):
    sent = 0

    def endless():
        nonlocal sent
        while True:
            sent += 2**20
            yield bytes(2**20)

    try:
        answer = httpx.post(
            f"{start_server()}/api/v1/jobs", content=endless(), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 413
    except httpx.WriteError:  # the server closed the connection without waiting for the rest
        pass
    assert sent < 2**28


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/api/v1/models", "/openapi.json", "/status/a"])
def test_server_with_a_token_answers_only_those_who_send_it(start_server, path):
    url = start_server(token="a-long-secret")
    assert refused(httpx.get(url + path), 401)
    assert refused(httpx.get(url + path, headers={"Authorization": "Bearer a-long-secreu"}), 401)
    assert httpx.get(url + path, headers={"Authorization": "Bearer a-long-secret"}).status_code in (200, 404)


def test_login_gives_a_cookie_that_scripts_cannot_read(start_server):
    with httpx.Client(base_url=start_server(token="a-long-secret")) as client:
        assert refused(client.post("/api/v1/login", content=json.dumps({"token": "wrong"})), 401)
        cookie = client.post("/api/v1/login", json={"token": "a-long-secret"}).headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
        assert client.get("/api/v1/jobs").status_code == 200


def test_full_queue_is_429_with_the_seconds_to_wait(start_server):
    url = f"{start_server(queue_limit=1)}/api/v1/jobs"
    answers = [httpx.post(url, json={"prompt": f"slow {k}"}) for k in range(8)]
    full = [answer for answer in answers if answer.status_code == 429]
    assert full
    assert all(int(answer.headers["retry-after"]) > 0 for answer in full)


def test_log_has_prompts_only_if_asked(start_server, capfd):
    url = start_server()
    httpx.post(f"{url}/api/v1/jobs", json={"prompt": "a secret hat"})
    assert "secret" not in "".join(capfd.readouterr())


def test_log_has_prompts_if_asked(start_server, capfd):
    url = start_server(log_prompts=True)
    httpx.post(f"{url}/api/v1/jobs", json={"prompt": "a secret hat"})
    assert capfd.readouterr().err.endswith(": a secret hat\n")
