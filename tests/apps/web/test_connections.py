"""Over real sockets: who never comes to an end is cut off, and fifty clients at once get what each would get alone."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from conftest import make_patches
from sentinode import Classifier
from sentinode.apps.web.gate import HEADERS
from sentinode.apps.web.server import Server, application, bound
from sentinode.apps.web.service import Service
from sentinode.apps.web.uploads import Limits

CLIENTS = 50
PATCHES = make_patches(CLIENTS, seed=7).pixels


@contextmanager
def served_at(classifier: Classifier, limits: Limits) -> Iterator[tuple[int, Server]]:
    """The port of a service in a thread of this process."""
    service = Service(classifier, "", maps="none", limits=limits)
    with bound("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        server = Server(application(service), service)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield port, server
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture(scope="module")
def quick(classifier: Classifier) -> Iterator[tuple[int, Server]]:
    """A service that soon loses patience."""
    with served_at(classifier, Limits(headers_s=0.3, unread_s=0.3)) as found:
        yield found


def require_problem(answer: bytes, status: int) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].split()[1] == str(status)
    named = dict(line.lower().split(": ", 1) for line in lines[1:])
    assert {name: named[name] for name in HEADERS} == {name: value.lower() for name, value in HEADERS.items()}
    assert named["content-type"] == "application/problem+json"
    assert named["connection"] == "close"
    assert json.loads(body)["status"] == status


def until_closed(client: socket.socket, piece: bytes = b"") -> bytes:
    """All that comes until the other side closes, while `piece` is sent again and again."""
    client.settimeout(0.05)
    found, until = b"", time.monotonic() + 8
    while time.monotonic() < until:
        try:
            if piece:
                client.sendall(piece)
            read = client.recv(1 << 16)
            if not read:
                return found
            found += read
        except TimeoutError:
            continue
        except OSError:
            return found
    raise AssertionError("the connection is still open")


@pytest.mark.parametrize("first", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_headers_that_never_end_are_cut_off(quick: tuple[int, Server], first: bytes) -> None:
    with socket.create_connection(("127.0.0.1", quick[0])) as client:
        if first:
            client.sendall(first)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        answer = until_closed(client, b"a")
    require_problem(answer[answer.index(b"HTTP/1.1 408") :], 408)


def test_who_says_nothing_is_cut_off_without_a_word(quick: tuple[int, Server]) -> None:
    with socket.create_connection(("127.0.0.1", quick[0])) as client:
        assert until_closed(client) == b""


def test_what_is_no_http_is_told_so(quick: tuple[int, Server]) -> None:
    with socket.create_connection(("127.0.0.1", quick[0])) as client:
        client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
        require_problem(until_closed(client), 400)


def test_a_body_that_nobody_waits_for_does_not_keep_the_connection(quick: tuple[int, Server]) -> None:
    with socket.create_connection(("127.0.0.1", quick[0])) as client:
        client.sendall(b"DELETE /v1/slides/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        assert until_closed(client, b"x").startswith(b"HTTP/1.1 404")


def test_a_client_that_reads_nothing_is_cut_off(quick: tuple[int, Server]) -> None:
    port, server = quick
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /openseadragon.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)  # 20 MB and more
        assert client.recv(1)
        until = time.monotonic() + 8
        while server.server_state.connections and time.monotonic() < until:
            time.sleep(0.02)
        assert not server.server_state.connections


def test_small_answers_do_not_wait_for_an_acknowledgement(quick: tuple[int, Server]) -> None:
    port, server = quick
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.recv(1 << 16)
        (connection,) = server.server_state.connections
        own: Any = connection.transport.get_extra_info("socket")
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_fifty_clients_at_once_get_the_bits_that_each_would_get_alone(classifier: Classifier) -> None:
    alone = [float(classifier(PATCHES[number : number + 1])[0]) for number in range(CLIENTS)]
    ready = threading.Barrier(CLIENTS)

    def ask(number: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        file = io.BytesIO()
        np.save(file, PATCHES[number : number + 1])
        ready.wait(20)
        said = []
        for _ in range(2):
            connection.request("POST", "/v1/predict", file.getvalue(), {"content-type": "application/x-npy"})
            answer = connection.getresponse()
            assert answer.status == 200
            said.append(json.load(answer)["patches"][0]["probability"])
        connection.close()
        return said

    with served_at(classifier, Limits()) as (port, _), ThreadPoolExecutor(CLIENTS) as clients:
        for number, said in enumerate(clients.map(ask, range(CLIENTS))):
            assert said == [alone[number]] * 2
