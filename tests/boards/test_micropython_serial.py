"""The serial link of a board without a network, on the real interpreter."""

import hashlib
import json
import sys
import zlib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import pytest
from board_models import classifier, random_input
from interpreter import (
    LIBRARY,
    ROOT,
    SCRIPTS,
    last_words,
    micropython_32bit,
    run_on_board,
)
from serial_host import SerialHost

from maille.bench.board import compile_library
from maille_protocol import ErrorCode, NodeKind, ResultStatus
from maille_protocol.codes import ModelState, SenseMode
from maille_protocol.serial import BoardLink, Hello, events
from maille_protocol.serial import messages as board
from maille_protocol.serial.messages import MESSAGE_CLASSES, SCHEMA
from maille_protocol.tiny import encode_model, run
from maille_simulator.boards.interpreter import find_micropython
from maille_simulator.boards.micropython_board import MicroPythonBoard

sys.path.append(str(ROOT / "tests" / "protocol"))
from serial_world import Faults, World  # type: ignore[import-not-found]
from test_serial_twins import HELLO, STEPS, Scribbler  # type: ignore[import-not-found]

HISTORIES = 200
SCRIBBLES = 30


class Recorded:
    """The twin in Python; writes down what it is given and what it gives."""

    def __init__(self, hello: Hello, lines: list[str], name: str) -> None:
        self._hello = hello
        self._link = BoardLink(hello)
        self._lines = lines
        self._name = name

    @property
    def session(self) -> int:
        return self._link.session

    @property
    def waiting_messages(self) -> int:
        return self._link.waiting_messages

    def handle(self, event: events.Event, now_ms: float) -> list[events.Action]:
        actions = self._link.handle(event, now_ms)
        self._lines += [self._given(event, now_ms), f"= {_told(actions)} {self._name}"]
        return actions

    def _given(self, event: events.Event, now_ms: float) -> str:
        hello = self._hello
        match event:
            case events.PortOpened():
                numbers = (hello.boot, hello.window_bytes, hello.max_message_bytes, hello.rates)
                words = [*map(str, numbers), str(hello.cause), hello.schema.hex(), repr(now_ms)]
                return f"N {' '.join(words)}"
            case events.BytesReceived(data):
                return f"B {now_ms!r} {data.hex()}"
            case events.Send(token, message):
                return f"S {now_ms!r} {token} {message.hex()}"
            case events.SetBusy(busy):
                return f"U {now_ms!r} {int(busy)}"
            case _:
                return f"T {now_ms!r}"


def _told(actions: Iterable[events.Action]) -> str:
    wire, told, ends = b"", list[str](), ""
    for action in actions:
        match action:
            case events.Write(data):
                wire += data
            case events.Received(message):
                told.append(f"R{message.hex()}")
            case events.Delivered(token):
                told.append(f"D{token}")
            case events.Lost(token):
                told.append(f"L{token}")
            case events.SetRate(rate):
                told.append(f"V{rate}")
            case events.Opened():
                ends += "O"
            case events.Closed():
                ends += "C"
            case _:
                pass
    return f"{wire.hex()} {','.join(sorted(told))} {ends}"


def histories(lines: list[str]) -> None:
    """Both ends on a bad wire, with a board that is reset and busy, as `test_serial_link` has them."""
    for seed in range(HISTORIES):
        world = World(
            seed,
            lambda hello, name=f"history-{seed}": Recorded(hello, lines, name),
            window_bytes=(32, 63, 63, 128, 255)[seed % 5],
            rates=0 if seed % 3 == 0 else 7,
            highest_rate=seed % 4,
            faults=Faults(busy=0.2),
        )
        world.run(20_000, done=lambda world=world: world.finished)
        world.check_end()


def scribbles(lines: list[str]) -> None:
    """Frames as a host might write them, many of them wrong."""
    for seed in range(SCRIBBLES):
        scribbler = Scribbler(seed)
        link = Recorded(HELLO, lines, f"scribble-{seed}")
        now_ms, token = 0.0, 0
        link.handle(events.PortOpened(), now_ms)
        for _ in range(STEPS):
            now_ms += scribbler.random.choice([0, 1, 1, 2, 7, 30, 120])
            found = scribbler.event()
            if isinstance(found, events.Tick) and link.session and not link.waiting_messages:
                token += 1
                found = events.Send(token, scribbler.random.randbytes(token % 99 + 1))
            link.handle(found, now_ms)


@pytest.mark.timeout(120)
def test_the_link_does_what_its_twin_does_in_every_history(tmp_path: Path) -> None:
    lines: list[str] = []
    histories(lines)
    scribbles(lines)
    trace = tmp_path / "trace"
    trace.write_text("\n".join(lines) + "\n")
    said = run_on_board("serial.py", "traces", trace)
    assert not [line[:2000] for line in said if line.startswith("FAULT")]
    assert int(last_words(said)["checks"]) == len(lines) // 2 > 20_000


def test_every_vector_of_the_serial_link(tmp_path: Path) -> None:
    vectors = ROOT / "protocol" / "vectors"
    (tmp_path / "serial_frames.json").write_text((vectors / "serial_frames.json").read_text())
    messages = json.loads((vectors / "serial_messages.json").read_text())
    classes = {kind.__name__: (code, kind) for code, kind in MESSAGE_CLASSES.items()}
    for vector in messages["good"]:
        code, kind = classes[vector["class"]]
        vector |= {"code": code, "order": [field.name for field in fields(kind)]}
    (tmp_path / "serial_messages.json").write_text(json.dumps(messages))
    said = run_on_board("serial.py", "vectors", tmp_path)
    assert not [line for line in said if line.startswith("FAULT")]
    assert int(last_words(said)["checks"]) > 120


def test_the_schema_is_that_of_the_description() -> None:
    text = (ROOT / "protocol" / "serial.cddl").read_text("utf-8")
    lines = [line.rstrip() for line in text.splitlines()]
    kept = "".join(f"{line}\n" for line in lines if line and not line.startswith(";"))
    assert hashlib.sha256(kept.encode()).digest()[:4] == SCHEMA
    source = (LIBRARY / "maille" / "serial_link.py").read_text("utf-8")
    assert 'SCHEMA = b"\\xae\\x1a\\x89\\x13"' in source
    assert SCHEMA == b"\xae\x1a\x89\x13"


def test_a_board_does_what_a_gateway_says(tmp_path: Path) -> None:
    model = classifier(1)
    container = encode_model(model)
    images = [random_input(model, seed) for seed in range(40)]
    with MicroPythonBoard(tmp_path, {"node": "pico"}) as pico, SerialHost(pico.path) as host:
        # No word of serial in its settings, and neither broker nor Wi-Fi: it speaks serial by itself.
        info = host.joined()
        assert (info.kind, info.name, info.models, info.sensors) == (
            *(NodeKind.MICROPYTHON, "pico"),
            *(0, 0),
        )
        assert host.run(1, bytes(4)).code is ErrorCode.MODEL_NOT_HELD
        host.tell(board.Sense(7, 0, 0, 100, SenseMode.ALWAYS))
        host.until(lambda: host.all(board.Refused))
        assert host.all(board.Refused)[-1] == board.Refused(5, 7, ErrorCode.MODEL_NOT_HELD)
        # Half of a model, then the power fails; it goes on where it was.
        digest = hashlib.sha256(container).digest()
        host.tell(board.Deploy(0, len(container), zlib.crc32(container), digest))
        host.until(lambda: host.all(board.Want))
        first = host.all(board.Want)[0]
        host.tell(board.ModelChunk(0, 0, container[: first.length]))
        host.until(lambda: len(host.all(board.Want)) >= 2)
        pico.reset()
        host.joined(sessions=2)
        host.said.clear()
        assert host.deployed(container).state is ModelState.READY
        assert host.all(board.Want)[0].offset == first.length
        # What arrives otherwise is not taken, and the old one stays.
        other = encode_model(classifier(2))
        failed = host.deployed(other, spoil=len(other) // 2)
        assert (failed.state, failed.code) == (ModelState.FAILED, ErrorCode.ARTEFACT_CORRUPT)
        assert host.deployed(bytes(10_000)).code is ErrorCode.MODEL_TOO_LARGE
        for number, image in enumerate(images, start=10):
            found = host.run(number, image.tobytes())
            (wanted,) = run(model, [image])
            assert (found.status, found.outputs) == (ResultStatus.DONE, (wanted.tobytes(),))
        # What cannot be run says why.
        assert host.run(100, images[0].tobytes()[1:]).code is ErrorCode.INPUT_SHAPE
        assert host.run(101).code is ErrorCode.INPUT_SHAPE
        host.tell_raw(b"\x82\x01\x61x")
        host.until(lambda: host.all(board.Refused))
        assert host.all(board.Refused)[-1] == board.Refused(1, 0, ErrorCode.INPUT_MALFORMED)
        # Three at once are one too many; one of two is not wanted any more.
        for task in (201, 202, 203):
            host.tell(board.OfferTask(task, 0, 60_000, (images[0].tobytes(),)))
        host.tell(board.CancelTask(202))
        ends = [host.result(task) for task in (201, 202, 203)]
        assert ends[0].status is ResultStatus.DONE
        assert {end.status for end in ends[1:]} <= {
            ResultStatus.DONE,
            ResultStatus.CANCELLED,
            ResultStatus.REFUSED,
        }
        # It measures itself again, forgets the model, and knows that after a reset.
        host.said.clear()
        host.tell(board.Calibrate())
        host.until(lambda: host.all(board.Info))
        assert host.all(board.Info)[0].models == 1
        host.tell(board.Evict(0))
        host.until(lambda: host.all(board.ModelStateReport))
        assert host.all(board.ModelStateReport)[0].state is ModelState.GONE
        host.said.clear()
        pico.reset()
        host.until(lambda: host.all(board.Info))
        assert host.all(board.Info)[0].models == 0
    assert "Traceback" not in pico.errors()


@pytest.mark.parametrize(
    ("interpreter", "architecture", "heap"),
    [(find_micropython(), "x64", "88k"), (micropython_32bit(), "x86", "64k")],
    ids=["64-bit words", "32-bit words"],
)
def test_the_whole_node_from_memory_mapped_flash(
    interpreter: str | None, architecture: str, heap: str, tmp_path: Path
) -> None:
    from mpremote.romfs import make_romfs  # noqa: PLC0415

    if interpreter is None:
        pytest.skip("scripts/micropython_32bit found none")
    library = tmp_path / "library"
    compile_library(library, architecture)
    image = tmp_path / "image.romfs"
    image.write_bytes(make_romfs(str(library), mpy_cross=None))
    small = {"serial": "usb", "max_model_bytes": 3584, "arena_bytes": 256}
    model = classifier(1)
    program = (str(SCRIPTS / "from_flash.py"), str(image), "maille.json")
    pico = MicroPythonBoard(
        tmp_path / "board", small, heap=heap, interpreter=interpreter, program=program
    )
    with pico, SerialHost(pico.path) as host:
        host.joined()
        assert host.deployed(encode_model(model)).state is ModelState.READY
        for number in range(1, 101):
            image_of = random_input(model, number)
            (wanted,) = run(model, [image_of])
            assert host.run(number, image_of.tobytes()).outputs == (wanted.tobytes(),)
    assert "Traceback" not in pico.errors()
