"""A gateway's figures for Prometheus, on the loopback interface."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields

from maille_node.errors import SettingsError
from maille_node.gateway.service import GatewayService, PortStatus
from maille_protocol.serial.counters import Counters

_HELP = {
    "maille_serial_online": "1 while the board is in the mesh",
    "maille_serial_baud": "speed of the line",
    "maille_serial_round_trip_milliseconds": "smoothed, of the link",
    "maille_serial_in_flight_bytes": "bytes that may be in the board's receive buffer",
    "maille_serial_waiting_messages": "messages that the board has not acknowledged",
    "maille_serial_resets_by_gateway_total": "resets by DTR of boards that did not answer",
    "maille_serial_tasks_done_total": "tasks that this start of the board has done",
    "maille_serial_board_bad_frames_total": "frames that the board threw away since it started",
    "maille_serial_board_overruns_total": "bytes that the board's receive buffer lost",
}
_MAX_REQUEST_BYTES = 8192
_REQUEST_S = 5.0


def metrics_text(ports: Sequence[PortStatus], gateway: str = "", *, online: bool = False) -> str:
    """The text format of Prometheus."""
    values = {
        "maille_serial_online": [float(port.state == "online") for port in ports],
        "maille_serial_baud": [float(port.baud) for port in ports],
        "maille_serial_round_trip_milliseconds": [port.round_trip_ms for port in ports],
        "maille_serial_in_flight_bytes": [float(port.in_flight_bytes) for port in ports],
        "maille_serial_waiting_messages": [float(port.waiting_messages) for port in ports],
        "maille_serial_resets_by_gateway_total": [float(port.resets_by_gateway) for port in ports],
        "maille_serial_tasks_done_total": [float(port.tasks_done) for port in ports],
        "maille_serial_board_bad_frames_total": [float(port.board_bad_frames) for port in ports],
        "maille_serial_board_overruns_total": [float(port.board_overruns) for port in ports],
    }
    for counter in fields(Counters):
        name = f"maille_serial_{counter.name}_total"
        values[name] = [float(getattr(port.counters, counter.name)) for port in ports]
    lines: list[str] = []
    for name, found in values.items():
        help_text = _HELP.get(name, name.removeprefix("maille_serial_").replace("_", " "))
        lines.append(f"# HELP {name} {help_text}")
        lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}")
        for port, value in zip(ports, found, strict=True):
            lines.append(f'{name}{{port="{_label(port.path)}",node="{port.node}"}} {value:.12g}')
    boards = sum(port.state == "online" for port in ports)
    for name, help_text, number in (
        ("maille_gateway_online", "1 while the gateway itself is in the mesh", int(online)),
        ("maille_gateway_boards", "boards that are in the mesh through it", boards),
    ):
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
        lines.append(f'{name}{{gateway="{_label(gateway)}"}} {number}')
    return "\n".join(lines) + "\n"


@contextlib.asynccontextmanager
async def serve_metrics(service: GatewayService, port: int) -> AsyncIterator[int]:
    """Answer every GET with the figures while inside; gives the port.

    Raises:
        SettingsError: the port is used.
    """

    def figures() -> str:
        return metrics_text(service.status(), service.gateway, online=service.is_online)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_S):
                request = await _read_request(reader)
                if request.startswith(b"GET "):
                    writer.write(_response(figures()))
                    await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(answer, "127.0.0.1", port, limit=_MAX_REQUEST_BYTES)
    except OSError as error:
        raise SettingsError(
            f"port {port} cannot be used for metrics ({error.strerror}): give another one"
        ) from error
    async with server:
        bound: int = server.sockets[0].getsockname()[1]
        yield bound


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def _response(text: str) -> bytes:
    body = text.encode()
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
