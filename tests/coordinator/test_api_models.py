"""Models and artefacts over HTTP, without a network."""

import hashlib
from pathlib import Path

import httpx
import pytest
from api_service import MEBIBYTE, MemoryService, play
from onnx_files import BAD_FILES, add_bias, relu
from test_api_basics import error_of


async def add(client: httpx.AsyncClient, data: bytes, name: str = "clip") -> httpx.Response:
    digest = digest_of(data)
    await client.put(f"/api/artefacts/{digest}", content=data)
    return await client.post("/api/models", json={"name": name, "sha256": digest})


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_life_of_a_model(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        assert (await client.get("/api/models")).json() == {"models": []}
        first = await add(client, add_bias(1.0))
        assert first.status_code == 201
        assert first.json()["version"] == 1
        assert first.json()["inputs"] == [{"name": "X", "dtype": "float32", "shape": ["N", 4]}]
        assert first.json()["batchable"] is True
        again = await add(client, add_bias(1.0))
        assert (again.status_code, again.json()) == (200, first.json())
        second = await add(client, add_bias(2.0))
        assert second.json()["version"] == 2
        assert set(service.known_models) == {("clip", 1), ("clip", 2)}
        assert len((await client.get("/api/models")).json()["models"]) == 2
        assert (await client.get("/api/models/clip")).json() == second.json()
        assert (await client.get("/api/models/clip?version=1")).json() == first.json()

        kept = [info for info in service.artefacts.list() if info.expires_at_unix_s is None]
        assert len(kept) == 2
        removed = await client.delete("/api/models/clip?version=1")
        assert removed.json() == {"name": "clip", "versions": [1]}
        assert set(service.known_models) == {("clip", 2)}
        # Its bytes may still be on their way to a node; they go later.
        gone = service.artefacts.info(first.json()["sha256"])
        assert gone is not None
        assert gone.expires_at_unix_s is not None
        assert (await client.delete("/api/models/clip")).json()["versions"] == [2]
        assert error_of(await client.get("/api/models/clip"))[:2] == (404, "unknown_model")
        assert error_of(await client.delete("/api/models/clip"))[:2] == (404, "unknown_model")

    play(tmp_path, scenario)


def test_bytes_that_two_models_share_stay(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await add(client, relu(), "one")
        await add(client, relu(), "two")
        await client.delete("/api/models/one")
        info = service.artefacts.info(digest_of(relu()))
        assert info is not None
        assert info.expires_at_unix_s is None

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    "name", ["text", "operator of another domain", "cut in the graph", "sequence output"]
)
def test_files_that_are_no_models(tmp_path: Path, name: str) -> None:
    data, code, text = BAD_FILES[name]

    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        status, found, message = error_of(await add(client, data))
        assert (status, found) == (422, f"model_{code}")
        assert text in message
        assert service.catalogue.list() == []
        assert all(info.expires_at_unix_s is not None for info in service.artefacts.list())

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("change", "status", "code", "text"),
    [
        ({"sha256": "0" * 64}, 404, "unknown_artefact", "upload it first"),
        ({"sha256": "abc"}, 422, "invalid_request", "sha256"),
        ({"name": "My Model"}, 422, "invalid_model_name", "'my-model'"),
        ({"format": "slice"}, 422, "invalid_request", "onnx"),
        ({"description": "x" * 2001}, 422, "invalid_request", "description"),
        ({"colour": "red"}, 422, "invalid_request", "colour"),
    ],
)
def test_bad_requests(
    tmp_path: Path, change: dict[str, str], status: int, code: str, text: str
) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        data = relu()
        await client.put(f"/api/artefacts/{digest_of(data)}", content=data)
        body = {"name": "clip", "sha256": digest_of(data), **change}
        found = error_of(await client.post("/api/models", json=body))
        assert found[:2] == (status, code)
        assert text in found[2]
        assert service.catalogue.list() == []

    play(tmp_path, scenario)


def test_file_sent_to_the_wrong_place(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        response = await client.post("/api/models", content=relu())
        assert error_of(response)[:2] == (415, "unsupported_media_type")
        assert "PUT /api/artefacts" in response.text
        response = await client.post(
            "/api/models",
            content=b" " * (2 * MEBIBYTE),
            headers={"Content-Type": "application/json"},
        )
        assert error_of(response)[0] == 413

    play(tmp_path, scenario)


DATA = bytes(range(256)) * 4
URL = f"/api/artefacts/{digest_of(DATA)}"


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-", 1000, 1024),
        ("bytes=1000-99999", 1000, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=-99999", 0, 1024),
        # Answered with everything, which the RFC allows:
        ("bytes=0-1,5-6", None, None),
        ("bytes=9-1", None, None),
        ("bytes=-", None, None),
        ("lines=1-2", None, None),
    ],
)
def test_download_ranges(tmp_path: Path, header: str, start: int | None, end: int | None) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await client.put(URL, content=DATA)
        response = await client.get(URL, headers={"Range": header})
        if start is None:
            assert (response.status_code, response.content) == (200, DATA)
        else:
            assert (response.status_code, response.content) == (206, DATA[start:end])
            last = 0 if end is None else end - 1
            assert response.headers["content-range"] == f"bytes {start}-{last}/1024"
        assert response.headers["content-length"] == str(len(response.content))

    play(tmp_path, scenario)


@pytest.mark.parametrize("header", ["bytes=1024-", "bytes=5000-6000", "bytes=-0"])
def test_ranges_outside(tmp_path: Path, header: str) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await client.put(URL, content=DATA)
        response = await client.get(URL, headers={"Range": header})
        assert error_of(response)[:2] == (416, "range_not_satisfiable")
        assert response.headers["content-range"] == "bytes */1024"

    play(tmp_path, scenario)


def test_conditions(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        await client.put(URL, content=DATA)
        whole = await client.get(URL)
        tag = whole.headers["etag"]
        assert (await client.get(URL, headers={"If-None-Match": tag})).status_code == 304
        part = {"Range": "bytes=0-3"}
        same = await client.get(URL, headers={**part, "If-Range": tag})
        other = await client.get(URL, headers={**part, "If-Range": '"other"'})
        assert (same.status_code, other.status_code) == (206, 200)

    play(tmp_path, scenario)


def test_head_and_upload_in_parts(tmp_path: Path) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        nothing = await client.head(URL)
        assert (nothing.status_code, nothing.headers["upload-offset"]) == (404, "0")
        part = await client.put(
            URL, content=DATA[:100], headers={"Content-Range": "bytes 0-99/1024"}
        )
        assert part.status_code == 202
        assert part.json()["size_bytes"] == 100
        assert part.json()["complete"] is False
        stored = await client.head(URL)
        assert (stored.status_code, stored.headers["upload-offset"]) == (404, "100")
        wrong = await client.put(
            URL, content=DATA[200:], headers={"Content-Range": "bytes 200-1023/1024"}
        )
        assert error_of(wrong)[:2] == (409, "upload_offset")
        assert wrong.headers["upload-offset"] == "100"
        rest = await client.put(
            URL, content=DATA[100:], headers={"Content-Range": "bytes 100-1023/1024"}
        )
        assert rest.status_code == 201
        there = await client.head(URL)
        assert (there.status_code, there.headers["content-length"]) == (200, "1024")
        assert (await client.get(URL)).content == DATA
        again = await client.put(URL, content=DATA)
        assert again.status_code == 200

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (DATA + b"x", {}, 422, "artefact_mismatch"),
        (DATA[:-1] + b"x", {}, 422, "artefact_mismatch"),
        (DATA, {"Content-Range": "bytes 0-99/1024"}, 400, "invalid_content_range"),
        (DATA, {"Content-Range": "bytes 9-1/1024"}, 400, "invalid_content_range"),
        (DATA, {"Content-Range": "bytes 0-1023/100"}, 400, "invalid_content_range"),
        (DATA, {"Content-Range": "everything"}, 400, "invalid_content_range"),
        (bytes(9 * MEBIBYTE), {}, 413, "artefact_too_large"),
        (b"x", {"Content-Range": "bytes 0-0/99999999999"}, 413, "artefact_too_large"),
    ],
)
def test_bad_uploads_leave_nothing(
    tmp_path: Path, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        response = await client.put(URL, content=content, headers=headers)
        assert error_of(response)[:2] == (status, code)
        assert service.artefacts.used_bytes == 0

    play(tmp_path, scenario)


@pytest.mark.parametrize("name", ["abc", "0" * 63, "A" * 64, "..%2f..%2fcatalogue"])
def test_names_that_are_no_digest(tmp_path: Path, name: str) -> None:
    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        for method in ("GET", "PUT"):
            response = await client.request(method, f"/api/artefacts/{name}")
            assert error_of(response)[0] in {400, 404, 405}
        unknown = await client.get(f"/api/artefacts/{'0' * 64}")
        assert error_of(unknown)[:2] == (404, "unknown_artefact")

    play(tmp_path, scenario)


@pytest.mark.parametrize("harm", ["flipped", "shortened", "missing"])
def test_a_file_that_the_disk_has_damaged(tmp_path: Path, harm: str) -> None:
    """Noticed at its first download, told to whoever asks next, mended by adding it again."""

    async def scenario(service: MemoryService, client: httpx.AsyncClient) -> None:
        data = add_bias(1.0)
        address = f"/api/artefacts/{digest_of(data)}"
        model = (await add(client, data)).json()
        path = service.artefacts.path(digest_of(data))
        match harm:
            case "flipped":
                path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            case "shortened":
                path.write_bytes(data[:-1])
            case _:
                path.unlink()
        first = await client.get(address)
        assert harm == "missing" or first.content != data
        told = error_of(await client.get(address))
        assert told[:2] == (410, "artefact_damaged")
        assert "send it again" in told[2]
        assert (await client.head(address)).status_code == 404
        again = await add(client, data)
        assert (again.status_code, again.json()) == (200, model)
        assert (await client.get(address)).content == data
        info = service.artefacts.info(digest_of(data))
        assert info is not None
        assert info.expires_at_unix_s is None

    play(tmp_path, scenario)
