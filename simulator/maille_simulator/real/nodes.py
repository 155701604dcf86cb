"""The nodes of a scenario in real time, each behind its own proxy."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from random import Random

from maille.children import maille_command
from maille_broker import Endpoint
from maille_simulator.real.launchers import LAUNCHERS, Place
from maille_simulator.real.light_node import LightNode
from maille_simulator.real.parts import MESH, Parts
from maille_simulator.real.proxy import FaultProxy
from maille_simulator.real.serial_boards import SERIAL, SerialBoards
from maille_simulator.scenario.values import EventKind, LinkQuality, NodeKindName, Scenario

FLEET = 100
"""More nodes than this, and a proxy for each would cost more than the mesh."""


def _corrupted(scenario: Scenario) -> set[str]:
    events = (event for event in scenario.events if event.kind is EventKind.CORRUPTION)
    return {node for event in events for node in event.nodes}


def gateway_of(node: str) -> str:
    """The id of the gateway before a serial node, which names itself."""
    return f"{node}-gw"


class RealNodes:
    """Starts, hurts and ends nodes by id.

    Args:
        scenario: says what they are.
        parts: the mesh's processes.
        on_attempt: told of the runs of light nodes.
    """

    def __init__(
        self,
        scenario: Scenario,
        parts: Parts,
        on_attempt: Callable[[str, float, float], None],
    ) -> None:
        self._scenario = scenario
        self._parts = parts
        self._on_attempt = on_attempt
        self._models = {model.name: model for model in scenario.models}
        self._groups = {node: group for group in scenario.groups for node in group.ids}
        self._proxies: dict[str, FaultProxy] = {}
        self._light: dict[str, LightNode] = {}
        self._random = Random(scenario.seed)
        damaged = {
            node: self._groups[node].link.corruption
            for node in self._groups
            if self._groups[node].link.corruption or node in _corrupted(scenario)
        }
        kinds = {node: group.kind for node, group in self._groups.items()}
        self.serial = SerialBoards(parts.folder, kinds, damaged, self._random)
        """The boards on serial ports."""

    async def start_proxies(self) -> None:
        """Listen for every node; in a fleet only for those whose network is touched."""
        touched = {node for event in self._scenario.events for node in event.nodes}
        for node, group in self._groups.items():
            if len(self._groups) > FLEET and node not in touched and group.link == LinkQuality():
                continue
            proxy = FaultProxy(self._parts.mqtt_port, self._random)
            proxy.quality = group.link
            await proxy.start()
            self._proxies[node] = proxy

    def proxy(self, node: str) -> FaultProxy:
        """What a node's connections go through."""
        return self._proxies[node]

    def own_quality(self, node: str) -> LinkQuality:
        """A node's way as the scenario has it."""
        return self._groups[node].link

    def _port(self, node: str) -> int:
        proxy = self._proxies.get(node)
        return self._parts.mqtt_port if proxy is None else proxy.port

    async def start(self, node: str) -> None:
        """Start a node that does not run."""
        group = self._groups[node]
        if group.kind is NodeKindName.LIGHT:
            if node in self._light:
                return
            endpoint = Endpoint("127.0.0.1", self._port(node))
            light = LightNode(endpoint, MESH, node, group, self._models, self._on_attempt)
            self._light[node] = light
            light.start()
        elif group.kind in SERIAL:
            if not self._parts.runs(node):
                path = await self.serial.start(node)
                await self._parts.start(
                    node,
                    maille_command(
                        *("gateway", "--url", f"mqtt://127.0.0.1:{self._port(node)}"),
                        *("--mesh", MESH, "--port", path, "--id", gateway_of(node), "--json"),
                    ),
                )
        elif not self._parts.runs(node):
            folder = self._parts.folder / node
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            place = Place(self._port(node), self._parts.http_url, MESH, folder)
            await self._parts.start(node, LAUNCHERS[group.kind].command(node, group, place))

    async def kill(self, node: str) -> None:
        """As a power cut."""
        light = self._light.pop(node, None)
        if light is not None:
            await light.kill()
            self._proxies[node].reset()
        else:
            await self._parts.kill(node)
            await self.serial.take_away(node)

    def stop(self, node: str) -> None:
        """Stand still."""
        light = self._light.get(node)
        if light is not None:
            light.stop()
        else:
            self._parts.signal(node, signal.SIGSTOP)

    def resume(self, node: str) -> None:
        """Go on."""
        light = self._light.get(node)
        if light is not None:
            light.resume()
        else:
            self._parts.signal(node, signal.SIGCONT)

    async def leave(self, node: str) -> None:
        """Finish, say goodbye, end."""
        light = self._light.pop(node, None)
        if light is not None:
            await light.leave()
        else:
            self._parts.signal(node, signal.SIGTERM)

    def read_battery(self, node: str, percent: int) -> None:
        """A light node's battery."""
        light = self._light.get(node)
        if light is not None:
            light.read_battery(percent)

    def bytes_by_topic(self) -> dict[str, int]:
        """What went between all nodes and the broker."""
        found: Counter[str] = Counter()
        for proxy in self._proxies.values():
            found.update(proxy.bytes_by_topic)
        return dict(found)

    async def close(self) -> None:
        """End light nodes and proxies; the processes are ended with the parts."""
        await asyncio.gather(*(light.kill() for light in self._light.values()))
        self._light.clear()
        await self.serial.close()
        await asyncio.gather(*(proxy.close() for proxy in self._proxies.values()))


def now_s() -> float:
    """This process's steady clock."""
    return time.monotonic()
