"""Connections as the service keeps them: small answers leave at once, and who never comes to an end is cut off.

Uvicorn waits without end for headers that come byte by byte, and for a client that does not read its answer.
"""

from __future__ import annotations

import asyncio
import socket
from typing import ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from sentinode.apps.web.gate import HEADERS, problem
from sentinode.apps.web.uploads import Limits

_MOST: Final = 512


class Connection(H11Protocol):
    """Uvicorn's, with limits of time; its own errors leave as problem details with the headers of all answers."""

    limits: ClassVar[Limits]
    _until: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    @classmethod
    def within(cls, limits: Limits) -> type[Connection]:
        """Connections of these limits."""
        return type(cls.__name__, (cls,), {"limits": limits})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        own = transport.get_extra_info("socket")
        if own is not None and own.family in (socket.AF_INET, socket.AF_INET6):
            # Else the body of an answer waits 40 ms for the client to acknowledge the headers. asyncio sees to that
            # only for sockets that name their protocol, and those that `socket.create_server` binds do not.
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > _MOST:
            self._refuse(503, f"{_MOST} clients are connected. Come again in a second.")
        else:
            self._expect_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        for handle in (self._until, self._unread):
            if handle is not None:
                handle.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.limits.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_400_response(self, msg: str) -> None:
        del msg  # uvicorn's words
        self._refuse(400, "the request: is no HTTP. Send HTTP/1.1.")

    def _expect_request(self) -> None:
        """Give whole headers some time, and no more to a body that nobody waits for."""
        nobody_waits = self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE
        if nobody_waits and self._until is None:
            self._until = self.loop.call_later(self.limits.headers_s, self._too_slow)
        elif not nobody_waits and self._until is not None:
            self._until.cancel()
            self._until = None

    def _too_slow(self) -> None:
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:  # a browser may connect in advance
            self._refuse(408, f"the headers: did not arrive within {self.limits.headers_s:g} s. Send them at once.")
        else:
            self.transport.abort()

    def _refuse(self, status: int, detail: str) -> None:
        if self.transport.is_closing():
            return
        answer = problem(status, detail)
        named = [*answer.raw_headers, *((name.encode(), value.encode()) for name, value in HEADERS.items())]
        events = (
            h11.Response(status_code=status, headers=[*named, (b"connection", b"close")]),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
