"""What stands before the service: who may ask, how much at once, and the headers that every answer carries.

A page of another site can make a browser ask a service on the loopback. So the name in `Host` must be this machine's
(else a name of the attacker's that resolves to 127.0.0.1 would make the browser take both for one site), and a request
that says which site it comes from must come from this one.
"""

from __future__ import annotations

import ipaddress
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sentinode.apps.web.answers import Problem
from sentinode.apps.web.metrics import Metrics
from sentinode.apps.web.uploads import Limits, RefusedError

PROBLEM: Final = "application/problem+json"
HEADERS: Final = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
SLIDES: Final = "/v1/slides"
"""Where slides are sent to, which are larger than all else."""
_GUARDED: Final = ("/v1/", "/metrics")
_TITLES: Final = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    413: "Content too large",
    415: "Unsupported media type",
    421: "Misdirected request",
    422: "Unprocessable content",
    429: "Too many requests",
    500: "Internal server error",
    501: "Not implemented",
    503: "Service unavailable",
    507: "Insufficient storage",
}
_AGAIN_S: Final = "1"


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach what is bound to it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def problem(status: int, detail: str) -> JSONResponse:
    """An error as RFC 9457 has it."""
    title = _TITLES.get(status, "Error")
    said = Problem(title=title, status=status, detail=detail).model_dump()
    more = {429: {"retry-after": _AGAIN_S}, 503: {"retry-after": _AGAIN_S}, 401: {"www-authenticate": "Bearer"}}
    return JSONResponse(said, status, more.get(status), media_type=PROBLEM)


@dataclass(frozen=True, eq=False)
class Gate:
    """An ASGI application around the service."""

    app: ASGIApp
    metrics: Metrics
    limits: Limits
    names: Collection[str]
    """That `Host` may say, beside localhost and addresses, which no other site can make its own."""
    token: bytes | None
    held: dict[int, int]
    """The requests with a body that are in the house, and how many bytes of it each may hold."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._answer(scope, receive, with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.answered(route, status, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if (refused := self._refused(scope, headers)) is not None:
            self.metrics.refused += 1
            await problem(*refused)(scope, receive, send)
            return
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most_bytes(scope):
                raise RefusedError(*self._too_large(scope))
            return message

        if scope["method"] != "POST":
            await self.app(scope, bounded, send)
            return
        self.held[id(scope)] = self._bytes_held(scope, headers)
        try:
            await self.app(scope, bounded, send)
        finally:
            del self.held[id(scope)]

    def _refused(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 421, "Host: is no name of this service. Ask by its address, or start it with --name."
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "Origin: the request comes from a page of another site. Use this service's own page."
        if self.token is not None and scope["path"].startswith(_GUARDED):
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), self.token):
                return 401, "Authorization: is missing or wrong. Send the service's token as: Bearer TOKEN."
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            return 400, "Content-Length: is no number. Leave it to your HTTP client."
        if int(length) > self._most_bytes(scope):
            return self._too_large(scope)
        if scope["method"] == "POST":
            held = sum(self.held.values()) + self._bytes_held(scope, headers)
            if len(self.held) >= self.limits.posts or held > self.limits.held_bytes:
                return 429, f"{len(self.held)} requests are being answered. Come again in {_AGAIN_S} s."
        return None

    def _bytes_held(self, scope: Scope, headers: Headers) -> int:
        """What a body may take of the memory: slides go to the disk."""
        most = min(self._most_bytes(scope), self.limits.body_bytes)
        return min(int(headers.get("content-length", most)), most)

    def _most_bytes(self, scope: Scope) -> int:
        is_slide = scope["method"] == "POST" and scope["path"] == SLIDES
        return self.limits.slide_bytes if is_slide else self.limits.body_bytes

    def _too_large(self, scope: Scope) -> tuple[int, str]:
        return 413, f"the body: has more than {self._most_bytes(scope) / 2**20:,.0f} MiB. Send less at once."

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
