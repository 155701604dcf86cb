"""The coordinator's HTTP API as typed calls; every failure becomes an error of `maille.errors`."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast
from urllib.parse import quote

import httpx

from maille.errors import (
    BoardRefused,
    GenerationFailed,
    InputError,
    MailleError,
    MeshBusy,
    MeshNotFound,
    MeshUnavailable,
    ModelRejected,
    NodeRefused,
    Unauthorized,
    UnknownModel,
    UnknownNode,
    UnknownResponse,
    UnknownSense,
    UnknownTask,
)
from maille.json_fields import Json
from maille.views import MeshDescription, Model, Node
from maille_protocol import ErrorCode

CHUNK_BYTES = 256 * 1024
CONNECT_TIMEOUT_S = 5.0

OnProgress = Callable[[int, int], None]
"""Called with (bytes sent, bytes in all)."""

BytesFrom = Callable[[int], AsyncIterator[bytes]]
"""Gives the bytes from an offset on."""

_ERROR_OF_WORD: Mapping[str, type[MailleError]] = {
    "unknown_model": UnknownModel,
    "unknown_node": UnknownNode,
    "node_alive": NodeRefused,
    "node_not_heard": NodeRefused,
    "unknown_task": UnknownTask,
    "unknown_sense": UnknownSense,
    "model_not_held": BoardRefused,
    "queue_full": MeshBusy,
    "unauthorized": Unauthorized,
    "model_not_found": UnknownModel,
    "rate_limit_exceeded": MeshBusy,
    "unknown_response": UnknownResponse,
    "model_impossible": GenerationFailed,
}
_TOO_LONG = frozenset({"context_length_exceeded", "cache_too_small"})


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    id: str
    data: str


class HttpApi:
    """One coordinator's HTTP API. An async context manager; use it in one event loop."""

    def __init__(self, url: str, *, key: str | None, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._has_key = bool(key)
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
            # A proxy of the environment has no business between two devices of one home.
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    # --- reading ---------------------------------------------------------------------------

    async def mesh(self) -> MeshDescription:
        """Where the parts of this mesh are."""
        return MeshDescription.from_json(await self._object("GET", "/api/mesh"))

    async def nodes(self) -> list[Node]:
        """Every node the coordinator knows."""
        return [Node.from_json(item) for item in await self._objects("/api/nodes", "nodes")]

    async def models(self) -> list[Model]:
        """Every version of every model."""
        return [Model.from_json(item) for item in await self._objects("/api/models", "models")]

    async def tasks(self, **query: str | int) -> list[Json]:
        """Tasks, newest first; `query` as the HTTP API takes it (state, model, limit)."""
        return await self._objects("/api/tasks", "tasks", query)

    async def task(self, task_id: str) -> Json:
        """One task with its history; UnknownTask."""
        return await self._object("GET", f"/api/tasks/{quote(task_id, safe='')}")

    # --- changing --------------------------------------------------------------------------

    async def cancel(self, task_id: str) -> Json:
        """Cancel one task; UnknownTask."""
        return await self._object("POST", f"/api/tasks/{quote(task_id, safe='')}/cancel")

    async def drain(self, node: str) -> None:
        """Give a node nothing new; UnknownNode."""
        await self._request("POST", f"/api/nodes/{quote(node, safe='')}/drain")

    async def resume(self, node: str) -> None:
        """Take a drained node back; UnknownNode, or NodeRefused where it was not heard yet."""
        await self._request("POST", f"/api/nodes/{quote(node, safe='')}/resume")

    async def forget(self, node: str) -> None:
        """Take a node that is gone off the list; UnknownNode, or NodeRefused where it is there."""
        await self._request("DELETE", f"/api/nodes/{quote(node, safe='')}")

    async def add_model(
        self,
        path: Path,
        *,
        name: str | None,
        description: str,
        on_progress: OnProgress | None = None,
    ) -> Model:
        """Upload a model file and add it to the catalogue.

        Raises:
            ModelRejected: the file is no model that the mesh can run.
        """
        sha256, size_bytes = await asyncio.to_thread(_digest, path)
        await self.put_artefact(
            sha256, size_bytes, lambda offset: _chunks(path, offset), on_progress
        )
        body = {
            "sha256": sha256.hex(),
            "name": name or model_name(path),
            "description": description,
        }
        return Model.from_json(await self._object("POST", "/api/models", json=body))

    async def remove_model(self, name: str, version: int = 0) -> None:
        """Remove one version of a model, 0 for all; UnknownModel."""
        query = {"version": version} if version else {}
        await self._request("DELETE", f"/api/models/{quote(name, safe='')}", params=query)

    # --- artefacts -------------------------------------------------------------------------

    async def put_artefact(
        self,
        sha256: bytes,
        size_bytes: int,
        bytes_from: BytesFrom,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Upload bytes under their SHA-256, unless the coordinator has them.

        Args:
            sha256: of all bytes.
            size_bytes: of all bytes.
            bytes_from: gives the bytes from an offset on: an upload that broke off goes on there.
            on_progress: called with what has been sent.
        """
        path = f"/api/artefacts/{sha256.hex()}"
        head = await self._request("HEAD", path, may_miss=True)
        if head.status_code == httpx.codes.OK:
            if on_progress is not None:
                on_progress(size_bytes, size_bytes)
            return
        stored = head.headers.get("Upload-Offset", "")
        offset = int(stored) if stored.isdecimal() and int(stored) < size_bytes else 0

        async def counted() -> AsyncIterator[bytes]:
            sent_bytes = offset
            async for chunk in bytes_from(offset):
                yield chunk
                sent_bytes += len(chunk)
                if on_progress is not None:
                    on_progress(sent_bytes, size_bytes)

        headers = {"Content-Length": str(size_bytes - offset)}
        if offset:
            headers["Content-Range"] = f"bytes {offset}-{size_bytes - 1}/{size_bytes}"
        await self._request("PUT", path, content=counted(), headers=headers)

    async def put_bytes(self, content: bytes) -> bytes:
        """Upload bytes; their SHA-256."""
        sha256 = hashlib.sha256(content).digest()

        async def rest(offset: int) -> AsyncIterator[bytes]:
            yield content[offset:]

        await self.put_artefact(sha256, len(content), rest)
        return sha256

    async def get_bytes(self, sha256: bytes, size_bytes: int) -> bytes:
        """Fetch an artefact and check it.

        Raises:
            MeshUnavailable: what arrived is not what the SHA-256 names.
        """
        response = await self._request("GET", f"/api/artefacts/{sha256.hex()}")
        content = response.content
        if len(content) != size_bytes or hashlib.sha256(content).digest() != sha256:
            raise MeshUnavailable(
                f"The outputs fetched from {self.url} are damaged: their SHA-256 is not "
                f"{sha256.hex()[:16]}. Ask for the task's result again."
            )
        return content

    # --- language models ---------------------------------------------------------------------

    async def language_models(self) -> list[Json]:
        """Every language model, with its state and the places of its layers."""
        return await self._objects("/api/language/models", "models")

    async def language_plan(self, name: str, *, explain: bool) -> Json:
        """How a language model is, or would be, cut; UnknownModel."""
        path = f"/api/language/models/{quote(name, safe='')}/plan"
        response = await self._request("GET", path, params={"explain": str(explain).lower()})
        return cast("Json", response.json())

    async def cancel_response(self, response_id: str) -> None:
        """Cancel a language model's answer; nothing happens if it has ended."""
        await self._request("DELETE", f"/v1/streams/{quote(response_id, safe='')}")

    async def events(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, object] | None = None,
        params: Mapping[str, str | int] | None = None,
    ) -> AsyncGenerator[Event]:
        """Server-sent events as they come, until the coordinator ends the stream.

        Raises:
            MeshUnavailable: the connection was lost, or nothing came for `timeout_s`.
        """
        try:
            async with self._client.stream(method, path, json=json, params=params) as response:
                if not response.is_success:
                    await response.aread()
                    raise self._error(method, path, response)
                identity = ""
                async for line in response.aiter_lines():
                    if line.startswith("id: "):
                        identity = line.removeprefix("id: ")
                    elif line.startswith("data: "):
                        yield Event(identity, line.removeprefix("data: "))
        except (httpx.InvalidURL, httpx.HTTPError) as error:
            raise self._unreachable(error) from error

    # --- boards ------------------------------------------------------------------------------

    async def ask(self, method: str, path: str, json: Mapping[str, object] | None = None) -> Json:
        """One request that is answered with an object; `path` may hold a query."""
        return await self._object(method, path, json=json)

    async def objects(self, path: str, key: str) -> list[Json]:
        """A request that is answered with a list under `key`; `path` may hold a query."""
        return await self._objects(path, key)

    # --- inside ----------------------------------------------------------------------------

    async def _object(
        self, method: str, path: str, *, json: Mapping[str, object] | None = None
    ) -> Json:
        response = await self._request(method, path, json=json)
        data: object = response.json() if response.content else {}
        return cast("Json", data) if isinstance(data, Mapping) else {}

    async def _objects(
        self, path: str, key: str, query: Mapping[str, str | int] | None = None
    ) -> list[Json]:
        response = await self._request("GET", path, params=query)
        data: object = response.json()
        if isinstance(data, Mapping):
            data = cast("Json", data).get(key)
        if not isinstance(data, list):
            raise MeshUnavailable(
                f"{self.url}{path} did not answer with a list: is that a Maille coordinator?"
            )
        return [cast("Json", item) for item in data if isinstance(item, Mapping)]

    async def _request(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, object] | None = None,
        params: Mapping[str, str | int] | None = None,
        content: AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        may_miss: bool = False,
    ) -> httpx.Response:
        try:
            response = await self._client.request(
                method, path, json=json, params=params, content=content, headers=headers
            )
        except (httpx.InvalidURL, httpx.HTTPError) as error:
            raise self._unreachable(error) from error
        if response.is_success or (may_miss and response.status_code == httpx.codes.NOT_FOUND):
            return response
        raise self._error(method, path, response)

    def _unreachable(self, error: Exception) -> MailleError:
        match error:
            case httpx.InvalidURL():
                return MeshNotFound(
                    f"{self.url!r} is not an address ({error}). Write it as http://host:7700."
                )
            case httpx.UnsupportedProtocol():
                return MeshNotFound(
                    f"{self.url!r} is no http:// address. Write it as http://host:7700."
                )
            case httpx.TimeoutException():
                return MeshUnavailable(
                    f"The coordinator at {self.url} does not answer in time. "
                    "Check that its machine is reachable, and try again."
                )
            case _:
                return MeshUnavailable(
                    f"The coordinator at {self.url} cannot be reached "
                    f"({error or type(error).__name__}). Check that it runs (`maille up` or "
                    "`maille coordinator`) and that the address is right."
                )

    def _error(self, method: str, path: str, response: httpx.Response) -> MailleError:
        word, text = _told(response)
        text = text[:1].upper() + text[1:]
        status = response.status_code
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            if self._has_key:
                return Unauthorized(
                    f"The coordinator at {self.url} refuses this key. "
                    "Check it against the key that `maille up --lan` printed."
                )
            return Unauthorized(
                f"The coordinator at {self.url} asks for a key. "
                "Set MAILLE_KEY, or give --key-file or key=...."
            )
        kind = error_of_word(word)
        if kind is not None:
            return kind(text)
        if path.startswith("/v1/") and status == httpx.codes.BAD_REQUEST:
            too_long = word in _TOO_LONG
            return InputError(
                text, ErrorCode.INPUT_TOO_LARGE if too_long else ErrorCode.INPUT_MALFORMED
            )
        if status == httpx.codes.CONFLICT and path.startswith(("/api/boards", "/api/senses")):
            return BoardRefused(text)
        if word in _INPUT_CODES:
            return InputError(text, ErrorCode[word.upper()])
        if path.startswith("/v1/") and status == httpx.codes.INTERNAL_SERVER_ERROR:
            return GenerationFailed(text)
        if method == "POST" and path == "/api/models":
            return ModelRejected(text)
        if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            return InputError(text, ErrorCode.INPUT_TOO_LARGE)
        if status == httpx.codes.SERVICE_UNAVAILABLE:
            return MeshBusy(text)
        return MeshUnavailable(
            f"The coordinator at {self.url} answered {status} to {method} {path}: {text}"
        )


def error_of_word(word: str) -> type[MailleError] | None:
    """The error that the API's word stands for; None if the status must tell."""
    return _ERROR_OF_WORD.get(word)


def model_name(path: Path) -> str:
    """A model's name made from a file's: lower case, with hyphens for what names cannot hold."""
    letters = [
        letter if letter.isalnum() or letter in "._" else "-" for letter in path.stem.lower()
    ]
    return "".join(letters).strip("-._")[:64] or "model"


_INPUT_CODES = frozenset(code.name.lower() for code in ErrorCode if code.name.startswith("INPUT_"))


def _told(response: httpx.Response) -> tuple[str, str]:
    """The API's word for the error and its text, whatever shape the answer has."""
    try:
        data: object = response.json()
    except ValueError:
        data = None
    if isinstance(data, Mapping):
        error: object = data.get("error", data.get("detail", data))
        if isinstance(error, Mapping):
            word = error.get("code", error.get("type", ""))
            text = error.get("message", error.get("text", error.get("detail", "")))
            return str(word), str(text)
        code = data.get("code", "")
        return str(code), str(error)
    return "", response.text[:300].strip() or response.reason_phrase


def _digest(path: Path) -> tuple[bytes, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        return digest, file.tell()


async def _chunks(path: Path, offset: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
