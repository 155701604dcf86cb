"""A virtual node's stages: the real core of slices on the virtual clock and bus."""

from collections.abc import Callable

from maille_node.feeding import Feeder
from maille_node.language import stage_events as stage
from maille_node.language.stages import StageCore
from maille_protocol import Activation, Envelope, StageReport, Tokens
from maille_simulator.virtual.language.plan import LanguagePlan
from maille_simulator.virtual.language.slices import VirtualSlices
from maille_simulator.virtual.violation import Violation


class VirtualStages:
    """What the real node's stage service is, for one process.

    Args:
        node: the node's id.
        boot: of this process.
        plan: the model and the times of loads.
        layer_us: of one token in one layer on this node.
        disk: slices that are on this machine's disk, by SHA-256; outlives the process.
        now_ms: the process's clock.
        later: calls something after so many ms, if the process lives then.
        say: tells the coordinator.
        send: publishes a packed activation to a node.
        on_serving: told how many stages the mesh counts on, when that has changed.
        sick: whether every step fails now, by the node's fault.
    """

    def __init__(
        self,
        node: str,
        boot: int,
        *,
        plan: LanguagePlan,
        layer_us: float,
        disk: set[bytes],
        now_ms: Callable[[], float],
        later: Callable[[float, Callable[[], None]], None],
        say: Callable[[StageReport | Tokens], None],
        send: Callable[[str, bytes], object],
        on_serving: Callable[[int], None],
        sick: Callable[[], bool],
    ) -> None:
        self._node = node
        self._plan = plan
        self._disk = disk
        self._now_ms = now_ms
        self._later = later
        self._say = say
        self._send = send
        self._on_serving = on_serving
        self._serving = 0
        self._wake = 0
        self._loads: dict[bytes, int] = {}
        self._load = 0
        self._obeyed = 0
        self.slices = VirtualSlices(plan.model, layer_us, now_ms, later, self.feed, sick)
        self.core = StageCore(node, boot, free_bytes=self._free_bytes)
        self._feeder: Feeder[stage.StageEvent, stage.StageAction] = Feeder(
            self.core.handle, self._carry_out, now_ms
        )

    def heard(self, envelope: Envelope) -> None:
        """A message for stages; Violation if one of an older coordinator changes anything."""
        if isinstance(envelope.message, Activation) or envelope.epoch >= self._obeyed:
            self._obeyed = max(self._obeyed, envelope.epoch)
            self.feed(stage.Heard(envelope))
            return
        core = self.core
        before = core.stage_count, core.session_count, core.serving
        self.feed(stage.Heard(envelope))
        if (core.stage_count, core.session_count, core.serving) != before:
            name = type(envelope.message).__name__
            text = f"{self._node} obeys a {name} of epoch {envelope.epoch} after {self._obeyed}"
            raise Violation("no older epoch takes effect", text)

    def feed(self, event: stage.StageEvent) -> None:
        """Hand an event to the core and carry out what it wants, without nesting."""
        if not self._feeder.feed(event):
            return
        serving = self.core.serving
        if serving != self._serving:
            self._serving = serving
            self._on_serving(serving)

    def _carry_out(self, action: stage.StageAction) -> None:
        match action:
            case stage.SendActivation(node=node, payload=payload):
                self._send(node, payload)
            case stage.Say(message=message):
                self._say(message)
            case stage.Compute():
                self.slices.compute(action)
            case stage.ShareCache():
                self.slices.share(action)
            case stage.FreeCache(cache=cache):
                self.slices.free(cache)
            case stage.LoadSlice(reference=reference):
                self._start_load(reference.sha256)
            case stage.DropSlice(sha256=sha256):
                self._loads.pop(sha256, None)
                self.slices.drop(sha256)
            case stage.WakeAt(at_ms=at_ms):
                self._wake += 1
                number = self._wake
                self._later(max(0.0, at_ms - self._now_ms()) + 0.01, lambda: self._tick(number))
            case _:
                pass  # notes; vocabularies are not asked for in virtual time

    def _tick(self, number: int) -> None:
        if number == self._wake:
            self.feed(stage.Tick())

    def _start_load(self, sha256: bytes) -> None:
        plan = self._plan
        self._load += 1
        number = self._loads[sha256] = self._load
        after_ms = plan.load_ms if sha256 in self._disk else plan.load_ms + plan.fetch_ms
        self._later(after_ms, lambda: self._loaded(sha256, number))

    def _loaded(self, sha256: bytes, number: int) -> None:
        if self._loads.get(sha256) == number:
            del self._loads[sha256]
            self._disk.add(sha256)
            self.feed(stage.SliceReady(sha256, self.slices.load(sha256)))

    def _free_bytes(self) -> int:
        left = self._plan.memory_bytes - self.slices.used_bytes
        return max(0, left - self.core.unfilled_bytes)
