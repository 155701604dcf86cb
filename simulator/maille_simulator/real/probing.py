"""Measures the machine before a scenario, for the twin in virtual time."""

import asyncio
import time
from collections.abc import Mapping
from random import Random
from statistics import median

import numpy as np

from maille.async_mesh import AsyncMesh
from maille_broker import Endpoint
from maille_simulator.errors import SimulatorError
from maille_simulator.real.light_node import LightNode
from maille_simulator.real.parts import MESH, Parts
from maille_simulator.real.proxy import FaultProxy
from maille_simulator.scenario.values import ModelUse, NodeGroup, NodeKindName
from maille_simulator.virtual.probes import (
    BURST_TASKS,
    BURSTS,
    PROBES,
    RUN_MS,
    SINGLES,
    SLOTS,
    ProbeTimes,
)

MODEL = "probe"
NAME = "probe"
READY_TIMEOUT_S = 20.0
PAUSE_S = 0.03
"""Between two tasks: a machine that naps takes longer, and most loads let it nap."""


async def measure(mesh: AsyncMesh, parts: Parts, inputs: Mapping[str, np.ndarray]) -> ProbeTimes:
    """Have tasks of the model `MODEL` run by light nodes that come and go; SimulatorError."""
    group = NodeGroup(NAME, NodeKindName.LIGHT, PROBES, slots=SLOTS)
    proxies: list[FaultProxy] = []
    nodes: list[LightNode] = []
    try:
        for node in group.ids:
            # As the scenario's own nodes have: a proxy costs time too.
            proxy = FaultProxy(parts.mqtt_port, Random(0))
            await proxy.start()
            proxies.append(proxy)
            endpoint = Endpoint("127.0.0.1", proxy.port)
            models = {MODEL: ModelUse(MODEL, run_ms=RUN_MS)}
            light = LightNode(endpoint, MESH, node, group, models, lambda *_: None)
            nodes.append(light)
            light.start()
        await _until_ready(mesh, set(group.ids))

        async def one() -> float:
            began_s = time.monotonic()
            await mesh.run_detailed(MODEL, dict(inputs))
            return 1000 * (time.monotonic() - began_s)

        await asyncio.gather(*(one() for _ in range(2 * PROBES)))  # every probe has the model then
        singles = []
        late = []
        for _ in range(SINGLES):
            began_s = time.monotonic()
            await asyncio.sleep(PAUSE_S)
            late.append(1000 * (time.monotonic() - began_s - PAUSE_S))
            singles.append(await one())
        bursts = []
        for _ in range(BURSTS):
            await asyncio.sleep(PAUSE_S)
            bursts += await asyncio.gather(*(one() for _ in range(BURST_TASKS)))
        return ProbeTimes(median(singles), median(bursts), max(0.0, median(late)))
    finally:
        await asyncio.gather(*(light.leave() for light in nodes))
        await asyncio.gather(*(proxy.close() for proxy in proxies))


async def _until_ready(mesh: AsyncMesh, wanted: set[str]) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not wanted <= {node.name for node in await mesh.nodes() if node.state == "ready"}:
        if time.monotonic() > deadline_s:
            raise SimulatorError(
                f"{len(wanted)} light nodes were not ready within {READY_TIMEOUT_S:g} s: this "
                "machine is too busy to be measured, leave --twin out"
            )
        await asyncio.sleep(0.05)
