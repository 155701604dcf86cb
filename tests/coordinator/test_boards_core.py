"""Boards, event by event: deliveries, refusals, evictions, calibration, senses, restarts."""

import pytest
from board_world import World, reference_of

from maille_coordinator.boards import events as happened
from maille_coordinator.boards.records import CalibrateWish, DeployWish, SenseWish
from maille_coordinator.boards.state import Phase, SensePhase
from maille_coordinator.core.events import ForgetAsked
from maille_protocol import (
    Chunk,
    ErrorCode,
    ModelCommand,
    ModelOrder,
    ModelReport,
    ModelState,
    OutcomeStatus,
    SenseCommand,
    SenseMode,
    SenseOrder,
    topics,
)
from maille_protocol.tensors import decode_tensors
from maille_simulator.boards.python_board import BoardLimits
from maille_simulator.boards.sample_models import dense_model, switch_model

SWITCH = switch_model()
DENSE = dense_model(64, 40)


def commands(world: World, node: str) -> list[ModelCommand]:
    return [
        message.command
        for to, message in world.sent
        if to == node and isinstance(message, ModelOrder)
    ]


def test_a_task_brings_its_model() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    world.plug_in("pico-1")
    world.run(10)
    task_id = world.submit(1, "switch", "pico-1")
    world.run(200)
    assert world.holds("pico-1", record)
    end = world.ends[task_id]
    assert (end.status, end.node) == (OutcomeStatus.DONE, "pico-1")
    assert isinstance(end.content, bytes)
    assert decode_tensors(end.content)["class"].tolist() == [1]
    assert commands(world, "pico-1") == [ModelCommand.DEPLOY]
    assert world.journal == {}, "what a task brings is nobody's wish"


def test_a_task_for_any_node_brings_its_model_to_the_emptiest_board() -> None:
    world = World()
    busy, record = world.add_model("busy", DENSE), world.add_model("switch", SWITCH)
    world.plug_in("a")
    world.plug_in("b")
    world.run(10)
    world.ask(happened.DeployAsked("a", reference_of(busy)))
    world.run(500)
    task_id = world.submit(1, "switch")
    world.run(500)
    assert world.ends[task_id].node == "b"
    assert not world.holds("a", record)


def test_a_task_goes_to_the_board_that_holds_its_model() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    for node in ("a", "b", "c"):
        world.plug_in(node)
    world.run(10)
    world.ask(happened.DeployAsked("c", reference_of(record)))
    world.run(100)
    ids = [world.submit(number, "switch") for number in range(1, 8)]
    world.run(500)
    assert {world.ends[task_id].node for task_id in ids} == {"c"}
    assert commands(world, "a") == commands(world, "b") == []


def test_a_delivery_is_cut_into_chunks_that_the_board_asks_for() -> None:
    world = World()
    record = world.add_model("dense", DENSE)
    world.plug_in("uno", BoardLimits(chunk_bytes=100))
    world.run(10)
    world.ask(happened.DeployAsked("uno", reference_of(record)))
    world.run(5_000)
    assert world.holds("uno", record)
    chunks = [message for _, message in world.sent if isinstance(message, Chunk)]
    assert [chunk.offset for chunk in chunks] == list(range(0, len(DENSE), 100))
    assert b"".join(chunk.data for chunk in chunks) == DENSE
    delivery = world.boards.boards["uno"].deliveries[record.sha256]
    assert (delivery.phase, delivery.offset) == (Phase.READY, len(DENSE))
    assert delivery.run_us == 100
    assert delivery.took_ms > 0
    assert "board.deployed" in world.kinds()


@pytest.mark.parametrize(
    ("limits", "code", "text"),
    [
        (BoardLimits(arena_bytes=50), ErrorCode.MODEL_TOO_LARGE, "arena of 105 bytes, 50 fit"),
        (BoardLimits(max_model_bytes=3000), ErrorCode.MODEL_TOO_LARGE, "takes at most 3000"),
        (BoardLimits(max_models=0), ErrorCode.NO_SPACE, "into its firmware"),
    ],
)
def test_a_board_that_cannot_hold_a_model_ends_its_tasks_with_the_reason(
    limits: BoardLimits, code: ErrorCode, text: str
) -> None:
    world = World()
    world.add_model("dense", DENSE)
    world.plug_in("tiny-1", limits)
    world.run(10)
    task_id = world.submit(1, "dense", "tiny-1", values=64)
    world.run(60_000)
    end = world.ends[task_id]
    assert (end.status, end.code) == (OutcomeStatus.FAILED, code)
    assert isinstance(end.content, bytes)
    assert text in end.content.decode()
    anywhere = world.submit(2, "dense", values=64)
    world.run(60_000)
    again = world.ends[anywhere]
    assert again.code is code
    assert isinstance(again.content, bytes)
    assert "no node of this mesh can run it" in again.content.decode()
    assert commands(world, "tiny-1").count(ModelCommand.DEPLOY) <= 1


def test_a_failed_self_test_ends_a_delivery_and_its_reason_is_kept_over_a_restart() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    world.plug_in("pico-1")
    world.run(10)
    # The board computes something else: its bytes are sound, so only the tests can tell.
    world.ask(happened.DeployAsked("pico-1", reference_of(record)))
    nonce = world.boards.boards["pico-1"].deliveries[record.sha256].nonce
    report = ModelReport(
        ModelState.FAILED,
        record.sha256,
        nonce,
        code=ErrorCode.SELF_TEST_FAILED,
        text="vector 3",
    )
    world.ask(happened.BoardSpoke("pico-1", report))
    world.devices["pico-1"].on = False
    delivery = world.boards.boards["pico-1"].deliveries[record.sha256]
    assert (delivery.phase, delivery.text) == (Phase.FAILED, "vector 3")
    (wish,) = world.journal.values()
    assert isinstance(wish, DeployWish)
    assert (wish.code, wish.text) == (ErrorCode.SELF_TEST_FAILED, "vector 3")
    world.power_cut("pico-1")
    world.restart_coordinator()
    orders = len(commands(world, "pico-1"))
    world.run(60_000)
    assert ModelCommand.DEPLOY not in commands(world, "pico-1")[orders:], "not tried by itself"
    world.ask(happened.DeployAsked("pico-1", reference_of(record)))
    world.run(1_000)
    assert world.holds("pico-1", record), "a person may try again"


def test_a_corrupt_delivery_is_tried_again_from_the_start() -> None:
    world = World()
    record = world.add_model("dense", DENSE)
    world.artefacts[record.sha256] = DENSE[:-1] + b"\xff"
    world.plug_in("pico-1")
    world.run(10)
    world.ask(happened.DeployAsked("pico-1", reference_of(record)))
    world.run(1_000)
    delivery = world.boards.boards["pico-1"].deliveries[record.sha256]
    assert delivery.attempts == 1
    assert delivery.code is ErrorCode.ARTEFACT_CORRUPT
    world.artefacts[record.sha256] = DENSE
    world.run(10_000)
    assert world.holds("pico-1", record)


def test_an_artefact_that_is_gone_ends_the_delivery() -> None:
    world = World()
    record = world.add_model("dense", DENSE)
    world.plug_in("pico-1")
    world.run(10)
    world.ask(happened.DeployAsked("pico-1", reference_of(record)))
    world.ask(happened.ArtefactMissing(record.sha256, "the file is damaged"))
    delivery = world.boards.boards["pico-1"].deliveries[record.sha256]
    assert (delivery.phase, delivery.code) == (Phase.FAILED, ErrorCode.ARTEFACT_UNAVAILABLE)


def test_a_board_that_says_nothing_of_a_delivery_is_given_up_after_a_while() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    device = world.plug_in("mute")
    world.run(10)
    handle = device.board.handle
    device.board.handle = lambda envelope, now_ms: (  # type: ignore[method-assign]
        [] if isinstance(envelope.message, ModelOrder) else handle(envelope, now_ms)
    )
    task_id = world.submit(1, "switch", "mute")
    world.run(400_000)
    assert world.ends[task_id].code is ErrorCode.NODE_ERROR
    delivery = world.boards.boards["mute"].deliveries[record.sha256]
    assert delivery.phase is Phase.FAILED
    assert "says nothing of the delivery" in delivery.text


def test_a_power_cut_in_the_middle_resumes_where_it_was() -> None:
    world = World(seed=3)
    record = world.add_model("dense", DENSE)
    device = world.plug_in("pico-1", BoardLimits(chunk_bytes=64))
    world.run(10)
    world.ask(happened.DeployAsked("pico-1", reference_of(record)))
    world.run(40)
    assert device.flash.partial is not None
    offset = len(device.flash.partial[1])
    assert 0 < offset < len(DENSE)
    sent = len(world.sent)
    world.power_cut("pico-1")
    world.run(5_000)
    assert world.holds("pico-1", record)
    again = [message for _, message in world.sent[sent:] if isinstance(message, Chunk)]
    assert min(chunk.offset for chunk in again) == offset


def test_a_coordinator_that_starts_again_goes_on_with_a_delivery() -> None:
    world = World()
    record = world.add_model("dense", DENSE)
    device = world.plug_in("pico-1", BoardLimits(chunk_bytes=64))
    world.run(10)
    world.ask(happened.DeployAsked("pico-1", reference_of(record)))
    world.run(40)
    assert device.flash.partial is not None
    offset = len(device.flash.partial[1])
    sent = len(world.sent)
    world.restart_coordinator()
    world.run(30_000)
    assert world.holds("pico-1", record)
    again = [message for _, message in world.sent[sent:] if isinstance(message, Chunk)]
    assert min(chunk.offset for chunk in again) >= offset


def test_what_a_person_deployed_comes_back_when_the_board_has_lost_it() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    device = world.plug_in("pico-1")
    world.run(10)
    world.ask(happened.DeployAsked("pico-1", reference_of(record)))
    world.run(200)
    device.flash.models.clear()
    world.power_cut("pico-1")
    world.run(500)
    assert world.holds("pico-1", record)


def test_a_board_that_was_away_when_it_was_asked_gets_the_model_later() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    world.plug_in("pico-1")
    world.run(10)
    world.unplug("pico-1")
    world.run(5_000)
    world.ask(happened.DeployAsked("pico-1", reference_of(record)))
    world.run(60_000)
    assert not world.holds("pico-1", record)
    world.power_cut("pico-1")
    world.run(500)
    assert world.holds("pico-1", record)


def test_a_newer_model_takes_the_place_of_the_older_one() -> None:
    world = World()
    old, new = world.add_model("old", SWITCH), world.add_model("new", DENSE)
    world.plug_in("pico-1")
    world.run(10)
    world.ask(happened.DeployAsked("pico-1", reference_of(old)))
    world.run(200)
    world.ask(happened.DeployAsked("pico-1", reference_of(new)))
    world.run(60_000)
    assert world.holds("pico-1", new)
    assert not world.holds("pico-1", old)
    assert list(world.boards.boards["pico-1"].deliveries) == [new.sha256]
    assert commands(world, "pico-1") == [ModelCommand.DEPLOY] * 2
    assert "board.replaced" in world.kinds()
    assert [wish for wish in world.journal if wish[0] == "deploy"] == [
        ("deploy", f"pico-1/{new.sha256.hex()}")
    ]


def test_evict() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    world.plug_in("pico-1")
    world.run(10)
    world.ask(happened.DeployAsked("pico-1", reference_of(record)))
    world.run(200)
    world.unplug("pico-1")
    world.run(5_000)
    world.ask(happened.EvictAsked("pico-1", reference_of(record)))
    assert [kind for kind, _ in world.journal] == ["evict"]
    world.restart_coordinator()
    world.power_cut("pico-1")
    world.run(20_000)
    assert not world.holds("pico-1", record)
    assert world.journal == {}
    assert commands(world, "pico-1").count(ModelCommand.EVICT) == 1


def test_calibrate_is_remembered_until_it_is_done() -> None:
    world = World()
    device = world.plug_in("pico-1")
    world.run(10)
    world.unplug("pico-1")
    world.run(5_000)
    world.ask(happened.CalibrateAsked("pico-1"))
    assert list(world.journal.values()) == [CalibrateWish("pico-1")]
    world.restart_coordinator()
    world.power_cut("pico-1")
    device = world.devices["pico-1"]
    world.run(20_000)
    assert device.board.calibrations == 1
    assert world.journal == {}
    state = world.boards.boards["pico-1"].state
    assert state is not None
    assert state.kernels[0].operations_per_s == 1_000_001


# --- senses --------------------------------------------------------------------------------------


def test_a_sense_brings_its_model_and_runs() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    values = iter([0.1, 0.1, 0.9, 0.9, 0.9] + [0.1] * 100)
    world.plug_in("pico-1", sensors={"adc0": (1, lambda: [next(values)])})
    world.run(10)
    wish = SenseWish(1, "pico-1", reference_of(record), "adc0", 1000, SenseMode.CHANGES, 0)
    world.ask(happened.SenseAsked(wish))
    world.run(8_500)
    found = [
        (reading.counter, decode_tensors(reading.content)["class"].tolist())
        for _, reading in world.readings
    ]
    assert found == [(1, [0]), (3, [1]), (6, [0])]
    sense = world.boards.senses.senses[1]
    assert (sense.phase, sense.readings) == (SensePhase.RUNNING, 3)


def test_senses_resume_after_a_power_cut_and_a_restart_of_the_coordinator() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    world.plug_in("pico-1", sensors={"adc0": (1, lambda: [0.7])})
    world.run(10)
    wish = SenseWish(1, "pico-1", reference_of(record), "adc0", 500, SenseMode.ALWAYS, 0)
    world.ask(happened.SenseAsked(wish))
    world.run(3_000)
    before = len(world.readings)
    assert before >= 5
    world.power_cut("pico-1")
    world.run(3_000)
    assert len(world.readings) >= before + 5
    before = len(world.readings)
    world.restart_coordinator()
    world.run(6_000)
    assert len(world.readings) >= before + 5
    starts = [
        message
        for _, message in world.sent
        if isinstance(message, SenseOrder) and message.command is SenseCommand.START
    ]
    assert len(starts) == 2, "the board still ran it when the coordinator came back"


def test_a_stopped_sense_stops_even_if_the_board_was_away() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    world.plug_in("pico-1", sensors={"adc0": (1, lambda: [0.7])})
    world.run(10)
    wish = SenseWish(1, "pico-1", reference_of(record), "adc0", 500, SenseMode.ALWAYS, 0)
    world.ask(happened.SenseAsked(wish))
    world.run(3_000)
    world.unplug("pico-1")
    world.run(5_000)
    world.ask(happened.SenseStopped(1))
    assert world.journal == {}
    world.devices["pico-1"].on = True  # the same process is heard again, and still senses
    world.run(10_000)
    state = world.boards.boards["pico-1"].state
    assert state is not None
    assert state.senses == ()


@pytest.mark.parametrize(
    ("sensor", "values", "code"),
    [
        ("adc9", 1, ErrorCode.NO_SUCH_SENSOR),
        ("adc0", 3, ErrorCode.INPUT_SHAPE),
    ],
)
def test_a_sense_that_cannot_be_says_why(sensor: str, values: int, code: ErrorCode) -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    world.plug_in("pico-1", sensors={"adc0": (values, lambda: [0.7] * values)})
    world.run(10)
    wish = SenseWish(1, "pico-1", reference_of(record), sensor, 500, SenseMode.ALWAYS, 0)
    world.ask(happened.SenseAsked(wish))
    world.run(60_000)
    sense = world.boards.senses.senses[1]
    assert (sense.phase, sense.code) == (SensePhase.FAILED, code)
    starts = [message for _, message in world.sent if isinstance(message, SenseOrder)]
    assert len(starts) == 1


def test_a_sensor_that_fails_is_told_once_and_recovers() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    broken = [True]

    def read() -> list[float]:
        if broken[0]:
            raise OSError("no answer on the bus")
        return [0.7]

    world.plug_in("pico-1", sensors={"adc0": (1, read)})
    world.run(10)
    wish = SenseWish(1, "pico-1", reference_of(record), "adc0", 500, SenseMode.CHANGES, 0)
    world.ask(happened.SenseAsked(wish))
    world.run(5_000)
    assert [reading.code for _, reading in world.readings] == [ErrorCode.SENSOR_ERROR]
    broken[0] = False
    world.run(2_000)
    codes = [reading.code for _, reading in world.readings]
    assert codes == [ErrorCode.SENSOR_ERROR, ErrorCode.NONE]


def test_senses_protect_their_models_from_tasks() -> None:
    world = World()
    sensed, other = world.add_model("switch", SWITCH), world.add_model("dense", DENSE)
    world.plug_in("pico-1", sensors={"adc0": (1, lambda: [0.7])})
    world.run(10)
    wish = SenseWish(1, "pico-1", reference_of(sensed), "adc0", 500, SenseMode.ALWAYS, 0)
    world.ask(happened.SenseAsked(wish))
    world.run(1_000)
    task_id = world.submit(1, "dense", "pico-1", values=64)
    world.run(1_000)
    assert world.ends[task_id].code is ErrorCode.NO_SPACE
    assert world.holds("pico-1", sensed)
    assert not world.holds("pico-1", other)


def test_too_large_a_task_is_never_sent_and_says_so() -> None:
    world = World()
    world.add_model("wide", dense_model(700, 2))
    world.plug_in("pico-1", BoardLimits(max_message_bytes=768))
    world.run(10)
    for number, target in ((1, "pico-1"), (2, None)):
        task_id = world.submit(number, "wide", target, values=700)
        world.run(1_000)
        end = world.ends[task_id]
        assert end.code is ErrorCode.INPUT_TOO_LARGE
        assert isinstance(end.content, bytes)
        assert "pico-1 receives at most 768" in end.content.decode()


def test_a_removed_model_is_wanted_nowhere() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    world.plug_in("pico-1", sensors={"adc0": (1, lambda: [0.7])})
    world.run(10)
    world.ask(happened.DeployAsked("pico-1", reference_of(record)))
    wish = SenseWish(1, "pico-1", reference_of(record), "adc0", 500, SenseMode.ALWAYS, 0)
    world.ask(happened.SenseAsked(wish))
    world.run(1_000)
    world.ask(happened.ModelRemoved(record.sha256))
    assert world.journal == {}
    world.run(5_000)
    assert world.boards.senses.senses == {}
    state = world.boards.boards["pico-1"].state
    assert state is not None
    assert state.senses == ()


def test_a_forgotten_board_leaves_nothing_behind() -> None:
    world = World()
    record = world.add_model("switch", SWITCH)
    world.plug_in("pico-1", sensors={"adc0": (1, lambda: [0.7])})
    world.run(10)
    world.ask(happened.DeployAsked("pico-1", reference_of(record)))
    wish = SenseWish(1, "pico-1", reference_of(record), "adc0", 500, SenseMode.ALWAYS, 0)
    world.ask(happened.SenseAsked(wish))
    world.ask(happened.CalibrateAsked("pico-1"))
    world.run(1_000)
    world.unplug("pico-1")
    world.run(5_000)
    world.take(ForgetAsked("pico-1"))
    world.ask(happened.NodeForgotten("pico-1"))
    assert world.journal == {}
    assert world.boards.boards == {}
    assert world.boards.senses.senses == {}


def test_a_board_whose_state_was_lost_is_asked_for_it() -> None:
    world = World()
    world.plug_in("pico-1")
    world._bus = [entry for entry in world._bus if entry[5] != "up/board"]
    world.run(500)
    assert world.boards.boards["pico-1"].state is not None


def test_a_board_that_does_not_say_its_state_is_asked_ever_more_seldom() -> None:
    world = World()
    device = world.plug_in("pico-1")
    world._bus.clear()
    say_all = device.board.start
    device.board.start = lambda now_ms: [  # type: ignore[method-assign]
        (topic, message) for topic, message in say_all(now_ms) if topic is not topics.NODE_BOARD
    ]
    handle = device.board.handle
    device.board.handle = lambda envelope, now_ms: (  # type: ignore[method-assign]
        [] if isinstance(envelope.message, ModelOrder) else handle(envelope, now_ms)
    )
    world.run(60_000)
    asked = commands(world, "pico-1")
    assert 3 <= len(asked) <= 7
    assert set(asked) == {ModelCommand.REPORT}


def test_nonsense_from_a_board_changes_nothing() -> None:
    world = World()
    record = world.add_model("dense", DENSE)
    world.plug_in("pico-1")
    world.run(10)
    world.unplug("pico-1")
    world.ask(happened.DeployAsked("pico-1", reference_of(record)))
    before = len(world.sent)
    for report in (
        ModelReport(ModelState.WANT, record.sha256, 1, offset=len(DENSE), length=10),
        ModelReport(ModelState.WANT, record.sha256, 1, offset=1 << 36, length=10),
        ModelReport(ModelState.WANT, record.sha256, 1, offset=0, length=0),
        ModelReport(ModelState.WANT, b"?" * 32, 1, offset=0, length=10),
        ModelReport(ModelState.WANT, None, 1, offset=0, length=10),
        ModelReport(ModelState.FAILED, record.sha256, 999, code=ErrorCode.NO_SPACE),
        ModelReport(ModelState.FAILED, b"?" * 32, 1, code=ErrorCode.NO_SPACE),
        ModelReport(ModelState.GONE, record.sha256, 1),
        ModelReport(ModelState.CALIBRATED, None, 1),
        ModelReport(ModelState.READY, b"?" * 32, 1),
    ):
        world.ask(happened.BoardSpoke("pico-1", report))
    assert len(world.sent) == before
    assert world.boards.boards["pico-1"].deliveries[record.sha256].phase is Phase.SENDING
