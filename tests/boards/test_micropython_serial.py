"""The serial link of a board without a network, on the real interpreter."""

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import pytest
from interpreter import LIBRARY, ROOT, last_words, run_on_board

from maille_protocol.serial import BoardLink, Hello, events
from maille_protocol.serial.messages import MESSAGE_CLASSES, SCHEMA

sys.path.append(str(ROOT / "tests" / "protocol"))
from serial_world import Faults, World  # type: ignore[import-not-found]
from test_serial_twins import HELLO, STEPS, Scribbler  # type: ignore[import-not-found]

HISTORIES = 300
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
    assert int(last_words(said)["checks"]) == len(lines) // 2 > 30_000


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
