"""The other ways in which a board runs: over TLS with a password, as .mpy, from memory-mapped flash."""

import asyncio
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from board_mesh import MESH, Board, outputs, peer
from board_models import classifier, random_input
from interpreter import LIBRARY, SCRIPTS, micropython_32bit

from maille.bench.board import compile_library
from maille.flashing.constants import constants_of, inlined
from maille_broker import Certificate, start_broker
from maille_protocol import ModelState, NodeState, NodeStatus
from maille_protocol.tiny import encode_model, run
from maille_simulator.boards.interpreter import find_micropython

MODEL = classifier(1)
CONTAINER = encode_model(MODEL)
FROM_FLASH_HEAP = "92k"
"""On a 64-bit machine, with the library in flash as ROMFS and a model of 3 KB."""


async def _answers(board: Board, port: int, certificate: Certificate | None, folder: Path) -> None:
    """The board joins, takes a model, answers, and leaves its will."""
    credentials = None
    if certificate is not None:
        credentials = {"coordinator": "coordinator-secret", "node/pico-1": "pico-secret"}
    broker = await start_broker(
        "mosquitto",
        port=port,
        data_directory=folder / "broker",
        certificate=certificate,
        credentials=credentials,
        mesh=MESH,
    )
    async with broker:
        endpoint = broker.endpoint
        if credentials is not None:
            endpoint = endpoint.with_credentials("coordinator", "coordinator-secret")
        try:
            async with peer(endpoint) as coordinator:
                board.start()
                await coordinator.ready()
                report = await coordinator.deployed(CONTAINER)
                assert report.state is ModelState.READY, report.text
                (wanted,) = run(MODEL, [random_input(MODEL, 1)])
                for _ in range(300):
                    task = coordinator.offer(CONTAINER, random_input(MODEL, 1))
                    assert outputs(await coordinator.answer(task)) == {"y": wanted.tolist()}
                board.kill()
                await coordinator.until(
                    lambda: coordinator.said(NodeStatus)[-1].state is NodeState.LOST
                )
                assert coordinator.envelopes[-1].seq == 0
        finally:
            board.kill()


def _certificate(folder: Path, name: str) -> Certificate:
    key, made = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(
        [
            *[
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
            ],
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    return Certificate(made, key, made)


def _free_port() -> int:
    from board_coordinator import free_port  # noqa: PLC0415 - only where the port must be known

    return free_port()


@pytest.mark.timeout(60)
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_over_tls_with_a_password_and_a_certificate_that_is_checked(tmp_path: Path) -> None:
    certificate = _certificate(tmp_path, "broker")
    port = _free_port()
    settings: dict[str, object] = {
        "broker": f"mqtts://localhost:{port}",
        "user": "node/pico-1",
        "password": "pico-secret",
        "cafile": str(certificate.ca_file),
    }
    board = Board(tmp_path / "board", port, settings=settings)
    asyncio.run(_answers(board, port, certificate, tmp_path))
    assert "pico-secret" not in board.log()


@pytest.mark.timeout(60)
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_broker_that_cannot_prove_itself_or_wants_another_password_is_not_joined(
    tmp_path: Path,
) -> None:
    certificate = _certificate(tmp_path, "broker")
    stranger = _certificate(tmp_path, "stranger")
    port = _free_port()

    async def story() -> None:
        broker = await start_broker(
            "mosquitto",
            port=port,
            data_directory=tmp_path / "broker",
            certificate=certificate,
            credentials={"coordinator": "coordinator-secret", "node/pico-1": "pico-secret"},
            mesh=MESH,
        )
        async with broker:
            for name, changes, words in (
                ("stranger", {"cafile": str(stranger.ca_file)}, "no connection"),
                ("password", {"password": "another-secret"}, "check the configuration"),
            ):
                settings: dict[str, object] = {
                    "broker": f"mqtts://localhost:{port}",
                    "user": "node/pico-1",
                    "password": "pico-secret",
                    "cafile": str(certificate.ca_file),
                    **changes,
                }
                board = Board(tmp_path / name, port, settings=settings)
                try:
                    board.start()
                    async with asyncio.timeout(15):
                        while words not in board.log():  # noqa: ASYNC110 - a file
                            await asyncio.sleep(0.05)
                    assert "connected" not in board.log()
                    assert "secret" not in board.log()
                    assert board.running
                finally:
                    board.kill()

    asyncio.run(story())


@pytest.mark.timeout(60)
def test_the_compiled_library_with_its_constants_in_place(tmp_path: Path) -> None:
    library = tmp_path / "library"
    compile_library(library)
    port = _free_port()
    board = Board(tmp_path / "board", port, library=library, heap="192k")
    asyncio.run(_answers(board, port, None, tmp_path))


@pytest.mark.timeout(60)
def test_the_whole_node_from_memory_mapped_flash_in_a_small_heap(tmp_path: Path) -> None:
    _from_flash(tmp_path, find_micropython(), "x64", FROM_FLASH_HEAP)


@pytest.mark.timeout(60)
@pytest.mark.skipif(micropython_32bit() is None, reason="scripts/micropython_32bit found none")
def test_the_whole_node_in_64_kilobytes_where_words_are_as_wide_as_a_boards(
    tmp_path: Path,
) -> None:
    found = micropython_32bit()
    assert found is not None
    _from_flash(tmp_path, found, "x86", "64k")


def _from_flash(folder: Path, interpreter: str, architecture: str, heap: str) -> None:
    from mpremote.romfs import make_romfs  # noqa: PLC0415

    library = folder / "library"
    compile_library(library, architecture)
    image = folder / "image.romfs"
    image.write_bytes(make_romfs(str(library), mpy_cross=None))
    port = _free_port()
    small: dict[str, object] = {"max_model_bytes": 3584, "arena_bytes": 256}
    board = Board(folder / "board", port, heap=heap, settings=small)
    board.interpreter = interpreter
    board.program = (str(SCRIPTS / "from_flash.py"), str(image))
    asyncio.run(_answers(board, port, None, folder))


def test_constants_are_put_in_place_line_by_line() -> None:
    sources = {
        "codes": "from micropython import const\nREADY = const(1)\nLOST = const(0x10)\n",
        "core": (
            "from . import codes, other\n"
            "from .codes import (\n    READY,\n    LOST as GONE,\n)\n"
            "STEP = const(5)\n"
            "def say(x=STEP):\n"
            "    return other.f(codes.READY, GONE, READY, x.READY, 'READY')\n"
        ),
    }
    assert inlined("core", sources["core"], constants_of(sources)) == (
        "from . import other\n"
        "pass\n\n\n\n"
        "pass\n"
        "def say(x=5):\n"
        "    return other.f(1, 16, 1, x.READY, 'READY')\n"
    )
    texts = {path.stem: path.read_text() for path in (LIBRARY / "maille").glob("*.py")}
    constants = constants_of(texts)
    assert sum(len(names) for names in constants.values()) > 100
    for name, text in texts.items():
        made = inlined(name, text, constants)
        assert made.count("\n") == text.count("\n")
        assert inlined(name, made, constants) == made


@pytest.mark.timeout(60)
def test_a_fault_of_the_node_itself_ends_it_so_that_it_starts_anew(tmp_path: Path) -> None:
    """`main.py` resets the board then; a part that died alone would leave it deaf for ever."""

    async def story() -> None:
        broker = await start_broker("mosquitto", port=0, data_directory=tmp_path / "broker")
        async with broker:
            board = Board(tmp_path / "board", broker.endpoint.port)
            board.program = (str(SCRIPTS / "fails.py"),)
            try:
                async with peer(broker.endpoint) as coordinator:
                    board.start()
                    await coordinator.ready()
                    coordinator.deploy(CONTAINER)
                    await coordinator.until(lambda: not board.running)
                    assert "RuntimeError: a fault of the node's own" in board.log()
                    board.program = ()
                    board.start()
                    await coordinator.ready(births=2)
                    report = await coordinator.deployed(CONTAINER, nonce=2)
                    assert report.state is ModelState.READY
            finally:
                board.kill()

    asyncio.run(story())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("moment", ["before it starts", "while it runs"])
def test_a_person_can_interrupt_the_board(moment: str, tmp_path: Path) -> None:
    async def story() -> None:
        broker = await start_broker("mosquitto", port=0, data_directory=tmp_path / "broker")
        async with broker:
            board = Board(tmp_path, broker.endpoint.port)
            # On a board, -i is what is there anyway: the REPL when main.py ends.
            board.program = (str(LIBRARY / "main.py"),)
            try:
                async with peer(broker.endpoint) as coordinator:
                    board.start()
                    if moment == "while it runs":
                        await coordinator.ready()
                    else:
                        async with asyncio.timeout(10):
                            while "starts in 2 s" not in board.log():  # noqa: ASYNC110 - a file
                                await asyncio.sleep(0.02)
                    assert board.process is not None
                    board.process.send_signal(signal.SIGINT)
                    await coordinator.until(lambda: not board.running)
                    births = bool(coordinator.said(NodeStatus))
                    assert births == (moment == "while it runs")
                    words = "stopped by hand" if births else "KeyboardInterrupt"
                    assert words in board.log()
            finally:
                board.kill()

    asyncio.run(story())
