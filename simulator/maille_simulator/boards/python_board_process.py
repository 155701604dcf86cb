# ruff: noqa: T201
"""A board in plain Python on a real broker.

    python -m maille_simulator.boards.python_board_process --broker mqtt://127.0.0.1:1883 --id b1

Its flash is the file that `--flash` names: a board that is killed and started again finds there
what it held. It prints one line when it has joined, and ends on SIGTERM.
"""

import argparse
import asyncio
import json
import math
import secrets
import signal
import time
from pathlib import Path
from typing import Any

from maille_broker import Link, Message, Will, parse_url
from maille_protocol import NodeKind, NodeState, NodeStatus, WireError, pack, topics, unpack
from maille_simulator.boards.python_board import BoardLimits, Flash, PythonBoard, Said

TICK_S = 0.01


class BoardProcess:
    """One process of one board."""

    def __init__(self, mesh: str, board: PythonBoard, save: Path | None, flash: Flash) -> None:
        self._mesh = mesh
        self._board = board
        self._save = save
        self._flash = flash
        self._seq = 0
        self.link: Link | None = None
        self.up = asyncio.Event()

    def will(self) -> Will:
        """What the broker says when it dies."""
        topic = topics.NODE_STATE
        payload = pack(NodeStatus(NodeState.LOST), boot=self._board.boot, seq=0, epoch=0)
        return Will(topic.on(self._mesh, self._board.node), payload, topic.qos, topic.retain)

    def on_up(self) -> None:
        """Connected: the birth."""
        self._say(self._board.start(now_ms()))
        self.up.set()

    def on_messages(self, messages: list[Message]) -> None:
        """Obey."""
        for message in messages:
            try:
                address = topics.parse(message.topic)
                envelope = unpack(message.payload, frozenset({address.topic.message}))
            except WireError:
                self._board.faults += 1
                continue
            self._say(self._board.handle(envelope, now_ms()))

    async def run(self) -> None:
        """Do what is due, for ever."""
        while True:
            await asyncio.sleep(TICK_S)
            if self.up.is_set():
                self._say(self._board.tick(now_ms()))

    def _say(self, said: Said) -> None:
        for topic, message in said:
            self._seq += 1
            data = pack(message, boot=self._board.boot, seq=self._seq, epoch=self._board.epoch)
            if self.link is not None:
                self.link.publish(
                    topic.on(self._mesh, self._board.node), data, qos=topic.qos, retain=topic.retain
                )
        if said and self._save is not None:
            whole = self._save.with_suffix(".new")
            whole.write_text(json.dumps(written(self._flash)))
            whole.replace(self._save)


def written(flash: Flash) -> dict[str, object]:
    """A flash as JSON."""
    partial = flash.partial
    return {
        "resets": flash.resets,
        "models": [
            [sha256.hex(), name, data.hex()] for sha256, (name, data) in flash.models.items()
        ],
        "partial": None if partial is None else [partial[0].hex(), partial[1].hex()],
    }


def read(found: dict[str, Any]) -> Flash:
    """A flash from that JSON."""
    partial = found["partial"]
    return Flash(
        {
            bytes.fromhex(sha256): (name, bytes.fromhex(data))
            for sha256, name, data in found["models"]
        },
        None if partial is None else (bytes.fromhex(partial[0]), bytearray.fromhex(partial[1])),
        found["resets"],
    )


def now_ms() -> float:
    """A clock that never goes back."""
    return time.monotonic_ns() / 1e6


async def serve(arguments: argparse.Namespace) -> None:
    """Run until SIGTERM."""
    flash = Flash()
    if arguments.flash is not None and arguments.flash.exists():
        flash = read(json.loads(arguments.flash.read_text()))
    limits = BoardLimits(
        max_models=arguments.max_models,
        max_model_bytes=arguments.max_model_bytes,
        chunk_bytes=arguments.chunk_bytes,
    )
    started_s = time.monotonic()

    def wave() -> list[float]:
        """Above one half every other second."""
        return [0.5 + 0.4 * math.sin(math.pi * (time.monotonic() - started_s))]

    board = PythonBoard(
        arguments.id,
        flash,
        boot=secrets.randbits(63) | 1,
        sensors={"adc0": (1, wave), "adc1": (0, wave), "pair": (2, lambda: [0.0, 1.0])},
        limits=limits,
        kind=NodeKind.MICROPYTHON,
    )
    process = BoardProcess(arguments.mesh, board, arguments.flash, flash)
    process.link = Link(
        parse_url(arguments.broker),
        arguments.id,
        subscriptions=topics.node_subscriptions(arguments.mesh, arguments.id),
        will=process.will(),
        on_messages=process.on_messages,
        on_up=process.on_up,
        on_down=lambda _reason: process.up.clear(),
    )
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    tasks = [
        asyncio.ensure_future(process.link.run()),
        asyncio.ensure_future(process.run()),
    ]
    await process.up.wait()
    print('{"joined": true}', flush=True)
    waiting = asyncio.ensure_future(stopped.wait())
    await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in [waiting, *tasks]:
        task.cancel()
    await asyncio.gather(waiting, *tasks, return_exceptions=True)


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broker", required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--mesh", default="home")
    parser.add_argument("--flash", type=Path)
    parser.add_argument("--max-models", type=int, default=1)
    parser.add_argument("--max-model-bytes", type=int, default=64 * 1024)
    parser.add_argument("--chunk-bytes", type=int, default=512)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
