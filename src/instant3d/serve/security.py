"""Checks of every request: its host, its token, the size of its body; and the headers of the answer (ASGI)."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from instant3d.serve.settings import ServeSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "instant3d_token"
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
OPEN_PATHS = ("/api/v1/login", "/api/v1/health")  # without a token; beside the page itself
PROTECTED = ("/api/", "/generate", "/send", "/status/", "/3d/", "/v1/", "/docs", "/openapi.json")
VIEWER_STYLE = "'sha256-PXtZZkJMMyc18o/DN1ZEFOJ2qEGq95IQbVaJFMOXOb0='"  # the one inline style, of model-viewer 4.4.0
CONTENT_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; connect-src 'self' blob:; "
    f"script-src 'self' 'wasm-unsafe-eval'; style-src 'self' {VIEWER_STYLE}; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class _TooLarge(Exception):
    pass


class Gate:
    """Middleware that refuses requests before their bodies are read.

    Args:
        app: The application.
        settings: Of the server.
    """

    def __init__(self, app: App, settings: ServeSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message["headers"], *_encoded(HEADERS)]
            await send(message)

        refused = self._refusal(scope["path"], headers) or _from_another_site(scope["method"], headers)
        if refused is not None:
            await _error(answer, *refused)
            return
        try:
            await self.app(scope, _bounded(receive, self.settings.upload_bytes), answer)
        except _TooLarge:
            if not begun:
                await _error(answer, 413, self._too_large())

    def _refusal(self, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        if self.settings.is_loopback and not _is_local(headers.get("host", ""), self.settings.host):
            return 421, "this server answers to requests for 127.0.0.1 or localhost only"
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            return 400, "content-length is no number"
        if int(length[:20]) > self.settings.upload_bytes:
            return 413, self._too_large()
        if path.startswith(PROTECTED) and path not in OPEN_PATHS and not self.is_known(headers):
            return 401, "send the server's token as `Authorization: Bearer TOKEN`"
        return None

    def is_known(self, headers: dict[str, str]) -> bool:
        """Whether a request has the token, as a header or as the page's cookie."""
        if self.settings.token is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        sent = [given.strip()] if kind.lower() == "bearer" else []
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        sent += [cookie.value] if cookie else []
        return any(same_token(self.settings.token, each) for each in sent)

    def _too_large(self) -> str:
        return f"the request has more than {self.settings.upload_bytes:,} bytes; send fewer or smaller images"


def _from_another_site(method: str, headers: dict[str, str]) -> tuple[int, str] | None:
    """Refuse what another site's page has a browser send, which needs no CORS for forms (request forgery)."""
    if method in ("GET", "HEAD", "OPTIONS") or headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return None
    return 403, "this request comes from the page of another site; use the server's own page, or a program"


def same_token(expected: str, given: str) -> bool:
    """Compare two tokens in a time that does not depend on where they differ."""
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogateescape"))


def _is_local(host: str, own: str) -> bool:
    """Whether a Host header names this machine; another name is a page's attempt to pass for it (DNS rebinding)."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.lower() in (*LOOPBACK_NAMES, own.lower())


def _bounded(receive: Receive, most: int) -> Receive:
    """Count the bytes of a body as they come, for its stated length may be missing or wrong."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise _TooLarge
        return message

    return counted


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _error(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 413:
        headers["connection"] = "close"  # or the rest of the body would be received for nothing
    await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": body})
