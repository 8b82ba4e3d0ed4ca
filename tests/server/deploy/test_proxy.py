"""The door's rules, with a SuperLink that does what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from server.deploy import proxy
from server.deploy.proxy import BODY_LIMIT, FLEET_PATHS, fleet_door

PUSH = "/v1/fleet/push-object"
Pairs = Sequence[tuple[bytes, bytes]]


@dataclass
class SuperLink(httpx.AsyncBaseTransport):
    """Answers with a status and parts of a body, or fails."""

    status: int = 200
    headers: Pairs = ()
    parts: Callable[[], AsyncIterator[bytes]] = lambda: nothing()
    failure: BaseException | None = None
    hears: Callable[[bytes], None] = lambda part: None
    requests: list[httpx.Request] = field(default_factory=list)
    body: bytes = b""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        assert isinstance(request.stream, httpx.AsyncByteStream)
        async for part in request.stream:
            self.body += part
            self.hears(part)
        if self.failure is not None:
            raise self.failure
        headers = list(self.headers)
        return httpx.Response(self.status, headers=headers, content=self.parts())


async def nothing() -> AsyncIterator[bytes]:
    """Be an empty body."""
    for part in ():
        yield part


@dataclass
class Answer:
    """What the door sent."""

    events: list[dict[str, Any]] = field(default_factory=list)

    async def send(self, event: Any) -> None:
        self.events.append(dict(event))

    @property
    def status(self) -> int:
        return int(self.events[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.events[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(event.get("body", b"") for event in self.events[1:])

    @property
    def whole(self) -> bool:
        return len(self.events) > 1 and not self.events[-1].get("more_body", False)


def ask(
    superlink: SuperLink,
    *parts: bytes,
    method: str = "POST",
    path: str = PUSH,
    query: bytes = b"",
    headers: Pairs | None = None,
    receive: Callable[[], Awaitable[Any]] | None = None,
    answer: Answer | None = None,
) -> Answer:
    """Send one request through the door, then hang up."""
    parts = parts or (b"",)
    length = str(sum(map(len, parts))).encode()
    events = [
        {"type": "http.request", "body": part, "more_body": index < len(parts)}
        for index, part in enumerate(parts, 1)
    ]

    async def in_order() -> Any:
        return events.pop(0) if events else {"type": "http.disconnect"}

    answer = answer or Answer()

    async def once() -> None:
        async with httpx.AsyncClient(transport=superlink) as client:
            scope = {
                "type": "http",
                "method": method,
                "raw_path": path.encode(),
                "query_string": query,
                "client": ("192.0.2.7", 4711),
                "headers": [(b"content-length", length)]
                if headers is None
                else headers,
            }
            door = fleet_door(client, "https://127.0.0.1:8000")
            await door(scope, receive or in_order, answer.send)

    asyncio.run(once())
    return answer


def test_the_list_is_that_of_flower_less_a_nodes_own_registration() -> None:
    flower = {path for _, path in PROTOBUF_REQUEST_TYPES if "/fleet/" in path}
    own = {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert own < flower
    assert flower - own == FLEET_PATHS


def test_nginx_has_the_same_list() -> None:
    text = (Path(proxy.__file__).parent / "nginx.conf").read_text()
    names = text.partition("/v1/fleet/(")[2].partition(")")[0].split("|")
    assert {f"/v1/fleet/{name}" for name in names} == FLEET_PATHS


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "/v1/control/list-nodes"},
        {"path": "/v1/fleet/register-node"},
        {"path": "//v1/fleet/push-object"},
        {"path": "https://127.0.0.1/v1/fleet/push-object"},
        {"path": "/v1/fleet/push%2dobject"},
        {"method": "GET"},
        {"method": "post"},
        {"query": b"a=b"},
    ],
)
def test_any_other_request_is_not_found(wrong: dict[str, Any]) -> None:
    superlink = SuperLink()
    assert ask(superlink, b"body", **wrong).status == 404
    assert not superlink.requests


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"chunked"), (b"content-length", b"4")],
    ],
)
def test_a_body_of_unknown_length_is_refused(headers: Pairs) -> None:
    superlink = SuperLink()
    assert ask(superlink, b"body", headers=headers).status == 411
    assert not superlink.requests


def test_a_body_may_be_as_long_as_the_limit() -> None:
    superlink = SuperLink()
    assert ask(superlink, bytes(BODY_LIMIT)).status == 200
    assert len(superlink.body) == BODY_LIMIT
    too_long = SuperLink()
    assert ask(too_long, bytes(BODY_LIMIT), b"x").status == 413
    assert not too_long.requests


def test_a_body_goes_up_before_it_is_whole() -> None:
    """The second part is sent only after the SuperLink has heard the first."""
    heard = asyncio.Event()
    superlink = SuperLink(hears=lambda part: heard.set() if part == b"one" else None)
    left = [b"one", b"two"]

    async def receive() -> Any:
        if len(left) == 1:
            await asyncio.wait_for(heard.wait(), 10)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    length = [(b"content-length", b"6")]
    assert ask(superlink, headers=length, receive=receive).status == 200
    assert superlink.body == b"onetwo"


def test_a_body_comes_down_before_it_is_whole() -> None:
    """The head, then the first part, are gone before the next part is asked for."""
    answer, gone = Answer(), []

    async def parts() -> AsyncIterator[bytes]:
        for part in (b"one", b"two"):
            gone.append(len(answer.events))
            yield part

    ask(SuperLink(parts=parts), answer=answer)
    assert gone == [1, 2]
    assert (answer.body, answer.whole) == (b"onetwo", True)


def test_headers_pass_but_those_of_one_connection() -> None:
    signed = [
        (b"flwr-public-key", b"AAAA"),
        (b"flwr-timestamp", b"2030-01-01T00:00:00+00:00"),
        (b"flwr-signature", b"BBBB"),
        (b"flwr-package-version", b"1.41.0"),
        (b"content-type", b"application/protobuf"),
        (b"content-length", b"4"),
    ]
    others = [
        (b"host", b"fl.example.org"),
        (b"connection", b"keep-alive"),
        (b"te", b"trailers"),
        (b"upgrade", b"h2c"),
        (b"expect", b"100-continue"),
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"x-forwarded-proto", b"http"),
    ]
    back = [(b"flwr-version-note", b"x"), (b"content-length", b"2")]
    hop = [(b"Connection", b"close"), (b"Keep-Alive", b"timeout=5")]

    async def parts() -> AsyncIterator[bytes]:
        yield b"ok"

    superlink = SuperLink(headers=[*back, *hop], parts=parts)
    answer = ask(superlink, b"body", headers=[*signed, *others])
    sent = superlink.requests[0].headers.raw
    assert sorted(sent) == sorted(
        [*signed, (b"Host", b"127.0.0.1:8000"), (b"x-forwarded-for", b"192.0.2.7")]
    )
    assert sorted(answer.headers.items()) == sorted(back)


@pytest.mark.parametrize(
    ("said", "told"),
    [(200, 200), (401, 401), (403, 403), (412, 412), (400, 400)]
    + [(status, status) for status in (502, 503, 504)]
    + [(status, 503) for status in (500, 501, 429)],
)
def test_no_status_ends_a_node_that_may_try_again(said: int, told: int) -> None:
    answer = ask(SuperLink(status=said))
    assert (answer.status, answer.whole) == (told, True)


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (httpx.ConnectError("refused"), 503),
        (httpx.ConnectTimeout("silent"), 504),
        (httpx.ReadTimeout("silent"), 504),
        (httpx.PoolTimeout("full"), 504),
        (httpx.RemoteProtocolError("no HTTP"), 502),
        (httpx.ReadError("reset"), 502),
        (RuntimeError("a bug"), 502),
        (asyncio.CancelledError(), 503),
    ],
)
def test_a_failure_is_never_500(failure: BaseException, told: int) -> None:
    assert ask(SuperLink(failure=failure), b"body").status == told


def test_a_silent_hospital_does_not_hold_the_door(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def receive() -> Any:
        await asyncio.sleep(5)
        return {"type": "http.disconnect"}

    monkeypatch.setattr(proxy, "PATIENCE", 0.01)
    length = [(b"content-length", b"4")]
    assert ask(SuperLink(), headers=length, receive=receive).status == 504


def test_who_left_gets_no_answer_and_the_superlink_no_end_of_the_body() -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    superlink = SuperLink()
    length = [(b"content-length", b"4")]
    assert not ask(superlink, headers=length, receive=receive).events
    assert superlink.requests
    assert not superlink.body


def test_an_answer_that_breaks_off_is_not_called_whole() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        raise httpx.ReadError("reset")

    answer = ask(SuperLink(parts=parts))
    assert (answer.body, answer.whole) == (b"one", False)
