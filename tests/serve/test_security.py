"""Requests that the server refuses before it reads them."""

import contextlib

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
