"""What each node measures: a layer of each model, and its round-trip time."""

from collections.abc import Collection

from maille_coordinator.language.actions import CutSlice
from maille_coordinator.language.state import (
    Measuring,
    Model,
    ModelState,
    Node,
    Run,
    Skill,
    World,
)
from maille_coordinator.placement import Links, NodeOffer
from maille_protocol import Reference, StageCommand, StageOrder, StageReport, StageState

_PINGS = 3
_ONE_AFTER_THE_OTHER_MS = 3000.0
"""Nodes of one machine would slow each other: the next starts when one is done or this late."""
_ASK_AGAIN_MS = 10_000.0
_GIVE_UP_MS = 120_000.0
_RETRY_MS = 10_000.0
_SETTLED_MS = 4000.0
"""After a measurement, so long is waited for the next one."""


class Measurer:
    """Asks nodes to measure, and makes what they say into the planner's terms."""

    def __init__(self, world: World) -> None:
        self._world = world

    # --- what there is ---------------------------------------------------------------------

    def able(self, model: Model) -> list[Node]:
        """Nodes on which the model may be placed now."""
        now_ms = self._world.now_ms
        return [
            node
            for node in self._world.nodes.values()
            if node.ready and not node.leaving and node.avoided.get(model.key, 0.0) <= now_ms
        ]

    def offers(self, model: Model, kept: Collection[str] = ()) -> list[NodeOffer]:
        """What the able and measured ones offer, and those that are to keep what they have."""
        found = []
        able = {node.node for node in self.able(model)}
        for node in self._world.nodes.values():
            if node.node not in able and not (node.node in kept and node.alive):
                continue
            skill = node.skills.get(model.key)
            if skill is not None and skill.state is Measuring.MEASURED:
                found.append(self._offer(node, model, skill))
        return found

    def _offer(self, node: Node, model: Model, skill: Skill) -> NodeOffer:
        shape = model.shape
        weight = shape.layer_weights[model.probe[0]]
        decode_s = max(skill.decode_us, 1) / 1e6 / weight
        # The head is one more matrix to read: it takes what its bytes take in a layer.
        mean = sum(shape.layers) / len(shape.layers)
        return NodeOffer(
            node=node.node,
            layer_decode_s=decode_s,
            layer_prefill_s=max(skill.prefill_us, 1) / 1e6 / weight,
            embedding_s=1e-6,
            head_s=decode_s * shape.head_bytes / mean,
            memory_bytes=skill.free_bytes or node.memory_bytes,
        )

    def links(self) -> Links:
        """Round-trip times; a ping also goes over the coordinator's own way to the broker."""
        pings = {
            node.node: node.ping_ms
            for node in self._world.nodes.values()
            if node.alive and node.ping_ms is not None
        }
        own_ms = min(pings.values(), default=0.0) / 2
        return Links(broker_ms={name: ping - own_ms for name, ping in pings.items()})

    def settled(self, model: Model) -> bool:
        """Whether it is time to plan: all have measured, or the last did a while ago."""
        skills = [node.skills.get(model.key) for node in self.able(model)]
        if all(skill is not None and skill.state is not Measuring.ASKED for skill in skills):
            return True
        last_ms = max(
            (
                skill.heard_ms
                for skill in skills
                if skill is not None and skill.state is Measuring.MEASURED
            ),
            default=None,
        )
        return last_ms is not None and self._world.now_ms - last_ms >= _SETTLED_MS

    def expects(self, model: Model) -> bool:
        """Whether a node was asked lately and has not measured yet."""
        asked_ms = [
            skill.asked_ms
            for node in self.able(model)
            if (skill := node.skills.get(model.key)) is not None and skill.state is Measuring.ASKED
        ]
        return self._world.now_ms - max(asked_ms, default=-1e12) < _ASK_AGAIN_MS

    # --- asking ----------------------------------------------------------------------------

    def consider(self, model: Model) -> None:
        """Ask the next node that has not measured this model."""
        world = self._world
        able = self.able(model)
        if not able:
            return
        probe = model.slices.get(model.probe)
        if probe is None:
            self.cut(model, model.probe)
            return
        busy_until_ms = 0.0
        next_look_ms = float("inf")
        for node in able:
            skill = node.skills.get(model.key)
            if skill is None or skill.state is Measuring.MEASURED:
                continue
            if skill.state is Measuring.FAILED:
                if skill.retry_ms <= world.now_ms:
                    del node.skills[model.key]
                else:
                    next_look_ms = min(next_look_ms, skill.retry_ms)
                continue
            if world.now_ms - skill.asked_ms >= _GIVE_UP_MS:
                self._failed(skill)
            elif world.now_ms - skill.heard_ms >= _ASK_AGAIN_MS:
                skill.heard_ms = world.now_ms
                self._ask(node, probe, skill.nonce)
            busy_until_ms = max(busy_until_ms, skill.asked_ms + _ONE_AFTER_THE_OTHER_MS)
            next_look_ms = min(next_look_ms, skill.heard_ms + _ASK_AGAIN_MS)
        waiting = [node for node in able if model.key not in node.skills]
        if waiting and busy_until_ms <= world.now_ms:
            node = waiting[0]
            skill = Skill(Measuring.ASKED, world.nonce(), world.now_ms, world.now_ms)
            node.skills[model.key] = skill
            self._ask(node, probe, skill.nonce)
            busy_until_ms = world.now_ms + _ONE_AFTER_THE_OTHER_MS
            next_look_ms = min(next_look_ms, world.now_ms + _ASK_AGAIN_MS)
        if len(waiting) > 1 or (waiting and busy_until_ms > world.now_ms):
            next_look_ms = min(next_look_ms, max(busy_until_ms, world.now_ms + 1))
        if next_look_ms < float("inf"):
            world.timers.set(("measure", model.name), next_look_ms)
        if model.pipeline is None and model.state is ModelState.WAITING:
            model.state, model.text = ModelState.MEASURING, "nodes measure a layer of it"

    def _ask(self, node: Node, probe: Reference, nonce: int) -> None:
        order = StageOrder(StageCommand.MEASURE, 0, 0, probe, 0, nonce)
        self._world.send(node.node, order)

    def cut(self, model: Model, run: Run) -> None:
        """Have a slice made, once."""
        if run not in model.cutting and run not in model.uncut:
            model.cutting.add(run)
            self._world.add(CutSlice(model.key, *run))

    def ping(self, node: Node) -> None:
        """Learn a node's round-trip time."""
        node.pings.clear()
        node.pings_left = _PINGS
        self.ping_once(node)

    def ping_once(self, node: Node) -> None:
        """Ask for a sign of life."""
        nonce = self._world.nonce()
        while len(node.pings) >= 8:
            del node.pings[next(iter(node.pings))]
        node.pings[nonce] = self._world.now_ms
        self._world.send(node.node, StageOrder(StageCommand.PING, 0, 0, None, 0, nonce))

    # --- answers ---------------------------------------------------------------------------

    def reported(self, node: Node, report: StageReport) -> bool:
        """Take an answer to MEASURE or PING; whether it was one."""
        if report.state is StageState.PONG:
            self._pong(node, report.nonce)
            return True
        for skill in node.skills.values():
            if skill.nonce == report.nonce:
                break
        else:
            return False
        skill.heard_ms = self._world.now_ms
        if report.state is StageState.MEASURED and report.decode_us > 0:
            skill.state = Measuring.MEASURED
            skill.decode_us = report.decode_us
            skill.prefill_us = report.prefill_us or report.decode_us
            skill.free_bytes = report.free_bytes
            skill.fingerprint = report.fingerprint
        elif report.state in (StageState.FAILED, StageState.MEASURED, StageState.GONE):
            self._failed(skill)
            self._world.report("node.unmeasured", node.node, report.text)
        return True

    def _failed(self, skill: Skill) -> None:
        skill.failures += 1
        skill.state = Measuring.FAILED
        skill.retry_ms = self._world.now_ms + _RETRY_MS

    def _pong(self, node: Node, nonce: int) -> None:
        sent_ms = node.pings.pop(nonce, None)
        if sent_ms is None:
            return
        took_ms = self._world.now_ms - sent_ms
        node.ping_ms = took_ms if node.ping_ms is None else min(node.ping_ms, took_ms)
        node.pings_left -= 1
        if node.pings_left > 0:
            self.ping_once(node)
