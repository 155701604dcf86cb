"""Who may ask: the key, the name under which this server was addressed, and the page that asks.

A coordinator without a key listens on loopback only. A web page that the user happens to visit
must not reach it: neither by a name that the page's owner lets point to 127.0.0.1 (the Host
header is checked), nor by a form (requests of other origins that change something are refused).
"""

import base64
import binascii
import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from maille_coordinator.api.errors import answer

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = frozenset({"/healthz"})
"""Asked by supervisors, which have no key; it tells nothing but whether the mesh works."""
_BROWSER_PATHS = ("/docs", "/openapi.json")
"""Pages that a browser opens by itself: it cannot send a bearer token, but it can ask for one."""
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Security:
    """ASGI middleware in front of everything.

    `key` None: nobody is asked for one. `hosts` None: any Host header is taken.
    """

    def __init__(self, app: ASGIApp, key: str | None, hosts: Iterable[str] | None) -> None:
        self._app = app
        self._key = None if key is None else key.encode()
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refuse_host(headers, scope["method"])
        if refusal is None and scope["path"] not in OPEN_PATHS:
            refusal = self._refuse_key(headers, scope["path"])
        if refusal is None:
            await self._app(scope, receive, send)
            return
        status, code, text, more = refusal
        await answer(status, code, text, more, path=scope["path"])(scope, receive, send)

    def _refuse_host(
        self, headers: Headers, method: str
    ) -> tuple[int, str, str, dict[str, str]] | None:
        host = headers.get("host", "")
        if self._hosts is not None and _name_of(host) not in self._hosts:
            return (
                421,
                "unknown_host",
                (
                    f"this coordinator is not {host[:100]!r}: ask it as "
                    f"{', '.join(sorted(self._hosts))}, or start it with a key to let it be reached "
                    "under other names"
                ),
                {},
            )
        origin = headers.get("origin")
        if origin is not None and method not in _READING and urlsplit(origin).netloc != host:
            return (
                403,
                "other_origin",
                (
                    f"a page of {origin[:100]!r} may not change this mesh: send the request from a "
                    "program, or from the coordinator's own pages"
                ),
                {},
            )
        return None

    def _refuse_key(
        self, headers: Headers, path: str
    ) -> tuple[int, str, str, dict[str, str]] | None:
        if self._key is None:
            return None
        scheme, _, value = headers.get("authorization", "").partition(" ")
        browser = path.startswith(_BROWSER_PATHS)
        given = value.strip().encode()
        if scheme.lower() == "basic" and browser:
            given = _password(given)
        elif scheme.lower() != "bearer":
            given = b""
        if hmac.compare_digest(given, self._key):
            return None
        problem = "the key is wrong" if value else "this coordinator asks for a key"
        return (
            401,
            "unauthorized",
            (
                f"{problem}: send the header `Authorization: Bearer <key>` with the key that the "
                "coordinator was started with (clients take it from MAILLE_KEY)"
            ),
            {"WWW-Authenticate": 'Basic realm="maille", charset="UTF-8"' if browser else "Bearer"},
        )


def _name_of(host: str) -> str:
    """The name in a Host header, without the port and an IPv6 address's brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _password(credentials: bytes) -> bytes:
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
