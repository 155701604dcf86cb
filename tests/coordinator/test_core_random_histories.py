"""Random histories: whatever gets lost, doubled or killed, every task ends exactly once."""

from collections import Counter
from dataclasses import dataclass, field

from core_stage import EPOCH, OUTPUT, Stage, new_stage, offers, task_id
from hypothesis import given, settings
from hypothesis import strategies as st

from maille_coordinator.core.actions import Action, SendToNode
from maille_coordinator.core.events import NodeSpoke
from maille_protocol import (
    Cancel,
    Envelope,
    ErrorCode,
    Message,
    NodeState,
    NodeStatus,
    Result,
    Results,
    ResultStatus,
)

NODES = ("a", "b", "c")


@dataclass
class Device:
    """A node that does as the specification says, as far as these histories need it."""

    boot: int = 0
    seq: int = 0
    alive: bool = False
    held: dict[bytes, int] = field(default_factory=dict)
    finished: set[bytes] = field(default_factory=set)


@dataclass
class World:
    stage: Stage = field(default_factory=new_stage)
    devices: dict[str, Device] = field(default_factory=lambda: {n: Device() for n in NODES})
    boots: int = 0
    submitted: set[bytes] = field(default_factory=set)
    runs: Counter[bytes] = field(default_factory=Counter)
    late: list[NodeSpoke] = field(default_factory=list)

    def react(self, actions: list[Action], *, deliver: bool = True) -> None:
        for action in actions:
            if isinstance(action, SendToNode) and isinstance(action.message, Cancel):
                for found, _ in action.message.attempts:
                    self.devices[action.node].held.pop(found, None)
        for node, offer in offers(actions):
            if deliver and self.devices[node].alive:
                self.devices[node].held[offer.task_id] = offer.attempt

    def say(
        self, node: str, message: Message, *, deliver: bool = True, twice: bool = False
    ) -> None:
        device = self.devices[node]
        device.seq += 1
        event = NodeSpoke(node, Envelope(device.boot, device.seq, EPOCH, message))
        self.late.append(event)
        del self.late[:-20]
        if deliver:
            for _ in range(1 + twice):
                self.react(self.stage.do(event))

    def boot(self, node: str) -> None:
        self.boots += 1
        self.devices[node] = Device(self.boots, 0, True)
        self.stage.sequences.clear()
        self.react(self.stage.join(node, boot=self.boots, slots=3))
        self.devices[node].seq = 3

    def beat(self, node: str, *, deliver: bool = True) -> None:
        device = self.devices[node]
        if device.alive and deliver:
            device.seq += 1
            self.stage.sequences[node, device.boot] = device.seq - 1
            self.react(self.stage.beat(node, *device.held.items(), boot=device.boot))

    def finish(self, node: str, *, deliver: bool, twice: bool, fail: bool) -> None:
        device = self.devices[node]
        if not device.alive or not device.held:
            return
        found, attempt = next(iter(device.held.items()))
        del device.held[found]
        self.runs[found] += 1
        status = ResultStatus.FAILED if fail else ResultStatus.DONE
        code = ErrorCode.NODE_ERROR if fail else ErrorCode.NONE
        result = Result(found, attempt, EPOCH, status, code, OUTPUT, 1, 1)
        self.say(node, Results((result,)), deliver=deliver, twice=twice)


steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["submit", "boot", "kill", "will", "finish", "finish", "finish", "beat", "time", "late"]
        ),
        st.sampled_from(NODES),
        st.integers(0, 7),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_every_task_ends_exactly_once(history: list[tuple[str, str, int]]) -> None:
    world = World()
    stage = world.stage
    for step, node, luck in history:
        device = world.devices[node]
        match step:
            case "submit":
                number = len(world.submitted) + 1
                world.submitted.add(task_id(number))
                world.react(stage.submit(number, max_attempts=50), deliver=luck != 0)
            case "boot" if not device.alive:
                world.boot(node)
            case "kill":
                device.alive = False
                device.held.clear()
            case "will" if not device.alive and device.boot:
                will = NodeStatus(NodeState.LOST)
                world.react(stage.do(NodeSpoke(node, Envelope(device.boot, 0, 0, will))))
            case "finish":
                world.finish(node, deliver=luck != 0, twice=luck == 1, fail=luck == 2)
            case "beat":
                world.beat(node, deliver=luck != 0)
            case "time":
                world.react(stage.pass_time(luck * 400.0))
            case "late" if world.late:
                world.react(stage.do(world.late[luck % len(world.late)]))
            case _:
                pass
        stage.core.validate()
    for node, device in world.devices.items():
        if not device.alive:
            world.boot(node)
    for _ in range(400):
        if not stage.core.tasks:
            break
        for node in NODES:
            world.beat(node)
            while world.devices[node].held:
                world.finish(node, deliver=True, twice=False, fail=False)
        world.react(stage.pass_time(900))
        stage.core.validate()
    ended = Counter(end.task_id for end in stage.ends)
    assert set(ended) == world.submitted
    assert set(ended.values()) <= {1}
