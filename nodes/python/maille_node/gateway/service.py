"""Finds boards on serial ports and keeps each of them in the mesh."""

import asyncio
import glob
import logging
import platform
from collections.abc import Coroutine
from dataclasses import dataclass
from zlib import crc32

import httpx

from maille_node.artefacts import ArtefactCache
from maille_node.errors import SettingsError
from maille_node.gateway import events
from maille_node.gateway.describe import node_id
from maille_node.gateway.events import Portrait
from maille_node.gateway.line import Line, LineError, place_of, usb_ports
from maille_node.gateway.member import Member
from maille_node.gateway.own_node import OwnNode
from maille_node.gateway.port import Port
from maille_node.gateway.settings import GatewaySettings
from maille_node.identity import from_host
from maille_node.supply import Supply
from maille_protocol.serial.counters import Counters
from maille_protocol.serial.limits import BAUDS
from maille_protocol.serial.messages import FromBoard, Load

logger = logging.getLogger(__name__)

SCAN_S = 1.0
STRANGER_AGAIN_S = 30.0
_HTTP_TIMEOUT = httpx.Timeout(20.0, connect=5.0, pool=None)


@dataclass(frozen=True, slots=True)
class PortStatus:
    """One port as people and metrics see it."""

    path: str
    state: str
    """online, joining, searching, silent, unfit, busy, missing or stranger."""
    node: str
    problem: str
    baud: int
    round_trip_ms: float
    window_bytes: int
    in_flight_bytes: int
    waiting_messages: int
    resets_by_gateway: int
    tasks_done: int
    board_bad_frames: int
    board_overruns: int
    board_ram_free: int
    counters: Counters


class GatewayService:
    """One gateway in one event loop: `run` until `stop`."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self.gateway = settings.gateway or f"{from_host(platform.node())}-gw"
        """The gateway's id."""
        self._ports: dict[str, Port] = {}
        self._members: dict[str, Member] = {}
        self._problems: dict[str, tuple[str, str]] = {}
        """State and text by path, of ports that cannot be used."""
        self._not_before_s: dict[str, float] = {}
        self._supply: Supply | None = None
        self._own: OwnNode | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Let the boards go in order and end `run`; call it in the event loop."""
        self._stopped.set()

    async def run(self) -> None:
        """Be a gateway until `stop`.

        Raises:
            SettingsError: the cache directory cannot be used.
        """
        settings = self._settings
        tls = settings.endpoint.tls_context()
        async with httpx.AsyncClient(
            timeout=_HTTP_TIMEOUT, verify=tls if tls is not None else True, trust_env=False
        ) as client:
            try:
                artefacts = ArtefactCache(
                    settings.cache_directory, settings.cache_limit_bytes, client
                )
            except OSError as error:
                raise SettingsError(
                    f"the cache directory {settings.cache_directory} cannot be used "
                    f"({error.strerror}): make it writable, or give another one"
                ) from error
            self._supply = supply = Supply(settings, artefacts, None, lambda _: None)
            if settings.http_url is not None:
                supply.use_coordinator(settings.http_url)
            self._own = own = OwnNode(settings, self.gateway)
            try:
                await self._scan_until_stopped()
            finally:
                await self._shut()
                await own.leave()
                await supply.close()
                await artefacts.close()

    @property
    def is_online(self) -> bool:
        """Whether the gateway itself is in the mesh."""
        return self._own is not None and self._own.link.is_up

    def status(self) -> list[PortStatus]:
        """Every port, in order."""
        paths = sorted({*self._ports, *self._problems})
        return [self._status_of(path) for path in paths]

    def _status_of(self, path: str) -> PortStatus:
        port, member = self._ports.get(path), self._members.get(path)
        node = member.node if member is not None else ""
        if port is None:
            state, problem = self._problems[path]
            return PortStatus(
                path, state, node, problem, 0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, Counters()
            )
        load = member.board.load if member is not None else None
        return PortStatus(
            path=path,
            state=_state(port, member),
            node=node,
            problem=port.problem,
            baud=BAUDS[port.link.rate],
            round_trip_ms=port.link.round_trip_ms,
            window_bytes=port.link.window_bytes,
            in_flight_bytes=port.link.in_flight_bytes,
            waiting_messages=port.link.waiting_messages,
            resets_by_gateway=port.resets,
            tasks_done=member.board.tasks_done if member is not None else 0,
            board_bad_frames=_of(load, "bad"),
            board_overruns=_of(load, "overruns"),
            board_ram_free=_of(load, "ram_free"),
            counters=port.link.counters,
        )

    # --- ports -----------------------------------------------------------------------------------

    async def _scan_until_stopped(self) -> None:
        while not self._stopped.is_set():
            present = await asyncio.to_thread(self._candidates)
            for path in present:
                if path not in self._ports:
                    self._try_port(path)
            for path in [path for path in self._problems if path not in present]:
                del self._problems[path]
                self._not_before_s.pop(path, None)
            try:
                async with asyncio.timeout(SCAN_S):
                    await self._stopped.wait()
            except TimeoutError:
                continue

    def _candidates(self) -> list[str]:
        if not self._settings.ports:
            return usb_ports()
        found: list[str] = []
        for pattern in self._settings.ports:
            found += sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207 - absolute patterns
        return found

    def _try_port(self, path: str) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s < self._not_before_s.get(path, 0.0):
            return
        try:
            line = Line(path)
        except LineError as error:
            state, text = self._problems.get(path, ("", ""))
            if error.missing and state == "missing":
                return
            if text != str(error):
                logger.error("%s", error)  # noqa: TRY400 - a traceback tells a user nothing
            self._problems[path] = ("missing" if error.missing else "busy", str(error))
            return
        self._problems.pop(path, None)
        self._ports[path] = Port(line, self, highest_baud=self._settings.highest_baud)

    # --- what ports tell -------------------------------------------------------------------------

    def line_up(self, port: Port, portrait: Portrait) -> None:
        """A board is there."""
        member = self._members.get(port.path)
        if member is not None and member.portrait.hello.boot == portrait.hello.boot:
            member.portrait = portrait
            member.feed(events.LineUp(portrait))
            return
        if member is not None:
            # The old start's tasks are lost: its own will says so at once.
            del self._members[port.path]
            self._spawn(self._replace(member, port, portrait))
        else:
            self._join(port, portrait)

    async def _replace(self, member: Member, port: Port, portrait: Portrait) -> None:
        await member.vanish()
        if port.is_open and port.path in self._ports and port.path not in self._members:
            self._join(port, portrait)

    def _join(self, port: Port, portrait: Portrait) -> None:
        if self._supply is None:
            return
        identity = node_id(portrait, place_of(port.path))
        taken = {member.node for member in self._members.values()}
        if identity in taken:
            own = node_id(portrait, port.path)[:24]
            identity = f"{own}-{crc32(port.path.encode()) % 10_000}"
            logger.warning(
                "two boards say that they are the same chip: the one on %s is called %s. "
                "Flash it again with a number of its own",
                port.path,
                identity,
            )
        logger.info("%s: board %s (%s)", port.path, identity, portrait.info.software)
        self._members[port.path] = Member(
            self._settings,
            self.gateway,
            identity,
            portrait,
            supply=self._supply,
            tell=port.tell,
            ended=lambda member, reason: self._unwanted(port, member, reason),
        )

    def line_down(self, port: Port) -> None:
        """The session is over."""
        member = self._members.get(port.path)
        if member is not None:
            member.feed(events.LineDown())

    def board_said(self, port: Port, message: FromBoard) -> None:
        """A message of the board."""
        member = self._members.get(port.path)
        if member is not None:
            member.feed(events.Said(message))

    def board_lost(self, port: Port, reason: str) -> None:
        """The board did not come back: the mesh learns it at once."""
        member = self._members.pop(port.path, None)
        if member is not None:
            logger.error("%s; %s is lost to the mesh", reason, member.node)
            self._spawn(member.vanish())

    def port_ended(self, port: Port, reason: str, *, stranger: bool) -> None:
        """A port is closed."""
        self._ports.pop(port.path, None)
        logger.error("%s", reason)
        self._problems[port.path] = ("stranger" if stranger else "missing", reason)
        if stranger:
            again_s = asyncio.get_running_loop().time() + STRANGER_AGAIN_S
            self._not_before_s[port.path] = again_s
        member = self._members.pop(port.path, None)
        if member is not None:
            self._spawn(member.vanish())

    def _unwanted(self, port: Port, member: Member, reason: str) -> None:
        logger.error("%s leaves the mesh: %s", member.node, reason)
        if self._members.get(port.path) is member:
            del self._members[port.path]
        self._ports.pop(port.path, None)
        self._problems[port.path] = ("unfit", reason)
        self._not_before_s[port.path] = asyncio.get_running_loop().time() + STRANGER_AGAIN_S
        port.close()
        self._spawn(member.vanish())

    async def _shut(self) -> None:
        members = list(self._members.values())
        self._members.clear()
        await asyncio.gather(*(member.leave() for member in members), return_exceptions=True)
        for port in self._ports.values():
            port.close()
        self._ports.clear()
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        job = asyncio.get_running_loop().create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)


def _state(port: Port, member: Member | None) -> str:
    if port.problem:
        return "unfit"
    if not port.is_open:
        return "silent" if member is not None else "searching"
    return "online" if member is not None and member.link.is_up else "joining"


def _of(load: Load | None, name: str) -> int:
    return 0 if load is None else int(getattr(load, name))
