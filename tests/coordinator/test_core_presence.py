"""Who is there: births, wills, silence, stalls, and two devices with one id."""

from core_stage import EPOCH, Stage, node_info, offers, sent_to, task_id

from maille_coordinator.core.actions import Action, ClearRetained
from maille_coordinator.core.events import (
    BrokerConnected,
    BrokerLost,
    DrainAsked,
    ForgetAsked,
    NodeSpoke,
    ProcessStalled,
    ResumeAsked,
    TimeReached,
    WishesRestored,
)
from maille_coordinator.records import NodeWish
from maille_protocol import (
    Control,
    ControlOrder,
    Envelope,
    ErrorCode,
    Heartbeat,
    NodeInfo,
    NodeState,
    NodeStatus,
    Result,
    Results,
    ResultStatus,
    TaskFlag,
)

BEAT = Heartbeat(0, 0, 0, 0, None, (), ())


def state(stage: Stage, node: str = "a") -> NodeState:
    record = stage.core.registry.get(node)
    assert record is not None
    return record.state


def test_silence_first_suspects_then_loses(stage: Stage) -> None:
    stage.join("a")
    stage.pass_time(1900)
    assert state(stage) is NodeState.READY
    assert not offers(stage.submit(1))
    stage.pass_time(1000)
    assert state(stage) is NodeState.LOST


def test_a_silent_death_is_noticed_within_three_seconds(stage: Stage) -> None:
    stage.join("a")
    for _ in range(10):
        stage.pass_time(1000)
        stage.beat("a")
    stage.pass_time(3000)
    assert state(stage) is NodeState.LOST


def test_heartbeats_keep_a_node(stage: Stage) -> None:
    stage.join("a")
    for _ in range(1000):
        stage.pass_time(1100)
        stage.beat("a")
    assert state(stage) is NodeState.READY
    assert stage.core.counters.nodes_lost == 0


def test_a_suspect_that_speaks_gets_work_again(stage: Stage) -> None:
    stage.join("a")
    stage.pass_time(2000)
    stage.submit(1)
    assert len(offers(stage.beat("a"))) == 1


def test_a_will_counts_only_for_the_process_that_was_born_last(stage: Stage) -> None:
    stage.join("a", boot=1)
    stage.join("a", boot=2)
    stage.say("a", NodeStatus(NodeState.LOST), boot=1, seq=0)
    assert state(stage) is NodeState.READY
    stage.say("a", NodeStatus(NodeState.LOST), boot=2, seq=0)
    assert state(stage) is NodeState.LOST


def test_a_lost_node_that_is_heard_again_is_back(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    stage.pass_time(3000)
    assert state(stage) is NodeState.LOST
    actions = stage.beat("a", (task_id(1), 1))
    assert state(stage) is NodeState.READY
    assert [offer.attempt for _, offer in offers(actions)] == [2]


def test_a_process_that_starts_anew_loses_what_it_held(stage: Stage) -> None:
    stage.join("a", boot=1)
    stage.submit(1)
    assert [offer.attempt for _, offer in offers(stage.join("a", boot=2))] == [2]


def test_retained_messages_alone_make_no_node_ready_for_work(stage: Stage) -> None:
    stage.submit(1)
    stage.say("a", NodeStatus(NodeState.READY), retained=True)
    record = stage.core.registry.get("a")
    assert record is not None
    assert not record.takes_work
    assert offers(stage.join("a", boot=1))


def test_a_retained_will_lists_the_node_as_lost(stage: Stage) -> None:
    stage.say("a", NodeStatus(NodeState.LOST), seq=0, retained=True)
    assert state(stage) is NodeState.LOST


def test_a_node_that_never_announced_itself_is_asked_to(stage: Stage) -> None:
    actions = stage.beat("a")
    assert [order.command for order in sent_to(actions, "a")] == [Control.REBIRTH]  # type: ignore[attr-defined]
    assert not sent_to(stage.beat("a"), "a")
    stage.pass_time(5000)
    assert sent_to(stage.beat("a"), "a")
    assert stage.core.counters.messages_unannounced == 3


def test_a_birth_is_an_announcement_before_it_says_ready(stage: Stage) -> None:
    stage.say("a", NodeStatus(NodeState.INIT))
    stage.say("a", node_info("a"))
    assert not sent_to(stage.beat("a"), "a")
    assert stage.core.counters.messages_unannounced == 0
    # Another process of this id has announced nothing yet.
    assert sent_to(stage.beat("a", boot=2), "a")


def test_two_devices_with_one_id_the_newcomer_must_go(stage: Stage) -> None:
    stage.join("a", boot=1)
    stage.join("a", boot=2)
    stage.say("a", BEAT, boot=1)
    actions = stage.say("a", BEAT, boot=1)
    stop = [o for o in sent_to(actions, "a") if isinstance(o, ControlOrder)]
    assert [(o.command, o.boot) for o in stop] == [
        (Control.STOP_DUPLICATE, 2),
        (Control.REBIRTH, 1),
    ]
    again = sent_to(stage.say("a", BEAT, boot=2), "a")
    assert [o.boot for o in again if isinstance(o, ControlOrder)] == [2]
    record = stage.core.registry.get("a")
    assert record is not None
    assert record.boot == 1


def test_a_late_message_of_a_replaced_process_is_no_second_device(stage: Stage) -> None:
    stage.join("a", boot=1)
    stage.beat("a", boot=1)
    stage.join("a", boot=2)
    for _ in range(5):
        stage.say("a", NodeStatus(NodeState.READY), boot=1, seq=3)
    record = stage.core.registry.get("a")
    assert record is not None
    assert record.boot == 2
    assert stage.core.counters.nodes_duplicate == 0


def test_while_the_broker_is_away_silence_means_nothing(stage: Stage) -> None:
    stage.join("a")
    stage.do(BrokerLost())
    stage.pass_time(60_000)
    assert state(stage) is NodeState.READY
    stage.do(BrokerConnected())
    stage.pass_time(2000)
    assert state(stage) is NodeState.READY
    stage.pass_time(1000)
    assert state(stage) is NodeState.LOST


def test_when_the_coordinator_stood_still_no_node_is_blamed(stage: Stage) -> None:
    stage.join("a")
    stage.now_ms += 20_000
    stage.do(ProcessStalled(20_000))
    assert state(stage) is NodeState.READY


def test_leaving_in_order(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    stage.say("a", NodeStatus(NodeState.DRAINING))
    assert not offers(stage.submit(2))
    stage.answer("a", (task_id(1), 1))
    stage.say("a", NodeStatus(NodeState.DISCONNECTED))
    assert state(stage) is NodeState.DISCONNECTED
    assert stage.core.counters.nodes_lost == 0


def test_only_a_node_that_is_gone_is_forgotten(stage: Stage) -> None:
    stage.join("a")
    assert not stage.do(ForgetAsked("a"))
    stage.pass_time(3000)
    assert stage.do(ForgetAsked("a")) == [ClearRetained("a")]
    assert stage.core.registry.get("a") is None


def test_sequence_gaps_are_counted(stage: Stage) -> None:
    stage.join("a")
    stage.do(NodeSpoke("a", Envelope(1, 50, EPOCH, BEAT)))
    assert stage.core.counters.sequence_gaps == 1


def test_an_older_state_does_not_undo_a_newer_one(stage: Stage) -> None:
    stage.join("a")
    stage.say("a", NodeStatus(NodeState.DRAINING), seq=9)
    stage.say("a", NodeStatus(NodeState.READY), seq=5)
    assert state(stage) is NodeState.DRAINING


def test_information_may_change(stage: Stage) -> None:
    stage.join("a", slots=1)
    record = stage.core.registry.get("a")
    assert record is not None
    assert isinstance(record.info, NodeInfo)
    stage.submit(*range(5))
    assert len(record.outstanding) == 2


def orders(actions: list[Action], node: str = "a") -> list[Control]:
    return [order.command for order in sent_to(actions, node) if isinstance(order, ControlOrder)]


def test_a_node_whose_last_state_may_be_lost_is_asked_for_a_rebirth(stage: Stage) -> None:
    stage.join("a")
    lost = stage.sequences["a", 1] = 4
    actions = stage.do(NodeSpoke("a", Envelope(1, lost + 1, EPOCH, BEAT)))
    assert orders(actions) == [Control.REBIRTH]
    stage.say("a", NodeStatus(NodeState.READY), seq=lost + 2)
    for seq in range(lost + 3, lost + 9):
        stage.pass_time(1000)
        assert not orders(stage.do(NodeSpoke("a", Envelope(1, seq, EPOCH, BEAT))))


def test_a_birth_whose_end_is_lost_is_asked_for_again(stage: Stage) -> None:
    stage.say("a", NodeStatus(NodeState.INIT), seq=1, retained=True)
    stage.say("a", node_info("a"), seq=2, retained=True)
    # The heartbeat that belongs to a birth, then one that does not.
    stage.say("a", NodeStatus(NodeState.INIT), seq=8)
    stage.say("a", node_info("a"), seq=9)
    assert not orders(stage.say("a", BEAT, seq=10))
    assert orders(stage.say("a", BEAT, seq=11)) == [Control.REBIRTH]


def test_what_the_broker_kept_of_a_node_that_was_not_ready_may_be_old(stage: Stage) -> None:
    stage.say("a", NodeStatus(NodeState.DRAINING), seq=5, retained=True)
    stage.say("a", node_info("a"), seq=2, retained=True)
    assert orders(stage.say("a", BEAT, seq=9)) == [Control.REBIRTH]


def test_orders_to_drain_and_to_resume_are_repeated_until_obeyed(stage: Stage) -> None:
    stage.join("a")

    def beat_for_6_s() -> list[Control]:
        found: list[Control] = []
        for _ in range(6):
            found += orders(stage.beat("a"))
            stage.pass_time(1000)
        return found

    stage.do(DrainAsked("a"))
    assert beat_for_6_s() == [Control.DRAIN]
    stage.say("a", NodeStatus(NodeState.DRAINING))
    assert not beat_for_6_s()
    stage.do(ResumeAsked("a"))
    assert beat_for_6_s() == [Control.RESUME]
    stage.say("a", NodeStatus(NodeState.READY))
    assert not beat_for_6_s()


def test_a_wish_to_resume_outlives_a_second_device_with_the_id(stage: Stage) -> None:
    stage.join("a", boot=1)
    stage.say("a", NodeStatus(NodeState.DRAINING), boot=1)
    stage.do(ResumeAsked("a"))
    for _ in range(10):  # the order does not reach it
        stage.pass_time(1000)
        stage.beat("a", boot=1)
    # Another device is ready for a moment: that is not the one the wish is for.
    stage.join("a", boot=2)
    stage.beat("a", boot=2)
    assert state(stage) is NodeState.READY
    for _ in range(3):
        stage.pass_time(500)
        stage.beat("a", boot=1)
    stage.say("a", NodeStatus(NodeState.DRAINING), boot=1)
    found: list[Control] = []
    for _ in range(6):
        stage.pass_time(1000)
        found += orders(stage.beat("a", boot=1))
    assert Control.RESUME in found


def test_a_coordinator_that_stood_still_lists_nobody_as_lost(stage: Stage) -> None:
    stage.join("a")
    stage.beat("a")
    # Not woken for 20 s: the node's heartbeats may lie unread, whichever event comes first.
    stage.now_ms += 20_000
    stage.do(TimeReached())
    assert state(stage) is NodeState.READY
    stage.pass_time(3000)
    assert state(stage) is NodeState.LOST


def test_a_late_state_from_before_a_gap_does_not_hide_the_gap(stage: Stage) -> None:
    stage.join("a")
    # 4 says DRAINING and comes last, 5 says READY and is lost.
    assert orders(stage.say("a", BEAT, seq=6)) == [Control.REBIRTH]
    stage.say("a", NodeStatus(NodeState.DRAINING), seq=4)
    assert state(stage) is NodeState.DRAINING
    stage.pass_time(2000)
    stage.say("a", BEAT, seq=7)
    stage.pass_time(2000)
    stage.say("a", BEAT, seq=8)
    stage.pass_time(2000)
    assert orders(stage.say("a", BEAT, seq=9)) == [Control.REBIRTH]
    stage.say("a", NodeStatus(NodeState.READY), seq=10)
    stage.pass_time(2000)
    assert not orders(stage.say("a", BEAT, seq=11))
    assert state(stage) is NodeState.READY


def test_what_the_broker_kept_says_nothing_of_what_was_missed_later(stage: Stage) -> None:
    stage.say("a", node_info("a"), seq=2, retained=True)
    assert orders(stage.say("a", BEAT, seq=30)) == [Control.REBIRTH]
    stage.say("a", NodeStatus(NodeState.DRAINING), seq=21, retained=True)
    stage.pass_time(2500)
    stage.say("a", BEAT, seq=31)
    stage.pass_time(2600)
    assert orders(stage.say("a", BEAT, seq=32)) == [Control.REBIRTH]


def test_a_refusal_to_drain_does_not_hide_a_gap(stage: Stage) -> None:
    stage.join("a")
    stage.submit(1)
    stage.say("a", NodeStatus(NodeState.INIT), seq=4)
    assert orders(stage.say("a", BEAT, seq=9)) == [Control.REBIRTH]
    refused = Result(task_id(1), 1, EPOCH, ResultStatus.REFUSED, ErrorCode.DRAINING, b"", 0, 0)
    stage.say("a", Results((refused,)), seq=10)
    record = stage.core.registry.get("a")
    assert record is not None
    assert record.incomplete


def test_an_at_most_once_task_waits_while_two_devices_may_share_an_id(stage: Stage) -> None:
    # The broker kept the birth of one process, then another one is heard: which is there?
    stage.say("a", NodeStatus(NodeState.READY), boot=2, retained=True)
    stage.say("a", node_info("a"), boot=2, retained=True)
    stage.join("a", boot=1)
    once = TaskFlag.AT_MOST_ONCE
    assert not offers(stage.submit(1, flags=once))
    assert [offer.task_id for _, offer in offers(stage.submit(2))] == []
    assert [offer.task_id for _, offer in offers(stage.submit(3, priority=7))] == [task_id(3)]
    found: list[bytes] = []
    for _ in range(3):
        actions = stage.pass_time(900) + stage.beat("a", (task_id(3), 1), boot=1)
        found += [offer.task_id for _, offer in offers(actions)]
    assert not found
    actions = stage.pass_time(200) + stage.beat("a", (task_id(3), 1), boot=1)
    found += [offer.task_id for _, offer in offers(actions)]
    assert sorted(found) == [task_id(1), task_id(2)]


def test_an_at_most_once_offer_is_for_the_process_that_was_heard(stage: Stage) -> None:
    """The sequence that ran a task twice: the second process is there before it is heard."""
    stage.join("a", boot=1)
    [(_, offer)] = offers(stage.submit(1, flags=TaskFlag.AT_MOST_ONCE))
    assert offer.boot == 1
    [(_, plain)] = offers(stage.submit(2))
    assert plain.boot == 0
    # Both hear the offer. The newcomer's refusal is no word of the process that may run it.
    refused = Result(task_id(1), 1, EPOCH, ResultStatus.REFUSED, ErrorCode.BUSY, b"", 0, 0)
    stage.join("b")
    assert task_id(1) not in [found.task_id for _, found in offers(stage.join("a", boot=2))]
    actions = stage.say("a", Results((refused,)), boot=2) + stage.pass_time(5000)
    assert task_id(1) not in [found.task_id for _, found in offers(actions)]
    assert (stage.ends[0].task_id, stage.ends[0].code) == (task_id(1), ErrorCode.OUTCOME_UNKNOWN)


def test_an_at_most_once_task_that_was_refused_is_for_the_process_of_the_next_offer(
    stage: Stage,
) -> None:
    stage.join("a", boot=1)
    stage.submit(1, flags=TaskFlag.AT_MOST_ONCE)
    refused = Result(task_id(1), 1, EPOCH, ResultStatus.REFUSED, ErrorCode.DRAINING, b"", 0, 0)
    stage.say("a", Results((refused,)), boot=1)
    stage.say("a", NodeStatus(NodeState.DISCONNECTED), boot=1)
    found = offers(stage.join("a", boot=2) + stage.pass_time(100))
    assert [(offer.attempt, offer.boot) for _, offer in found] == [(2, 2)]


def test_after_an_end_that_was_seen_an_at_most_once_task_need_not_wait(stage: Stage) -> None:
    stage.join("a", boot=1)
    stage.say("a", NodeStatus(NodeState.DISCONNECTED), boot=1)
    stage.join("a", boot=2)
    assert len(offers(stage.submit(1, flags=TaskFlag.AT_MOST_ONCE))) == 1


def wishes(stage: Stage) -> list[NodeWish]:
    found = [record for record in stage.written if isinstance(record, NodeWish)]
    stage.written.clear()
    return found


def beats(stage: Stage, seconds: int) -> list[Control]:
    found: list[Control] = []
    for _ in range(seconds):
        stage.pass_time(1000)
        found += orders(stage.beat("a"))
    return found


def test_what_a_person_wants_of_a_node_is_written_until_it_is_fulfilled(stage: Stage) -> None:
    stage.join("a")
    stage.do(DrainAsked("a"))
    assert wishes(stage) == [NodeWish("a", drained=True)]
    stage.say("a", NodeStatus(NodeState.DRAINING))
    stage.do(ResumeAsked("a"))
    assert wishes(stage) == [NodeWish("a", drained=False)]
    assert beats(stage, 6) == [Control.RESUME]
    stage.say("a", NodeStatus(NodeState.READY))
    stage.beat("a")
    assert wishes(stage) == [NodeWish("a", drained=None)]


def test_a_drained_node_stays_drained_when_the_coordinator_starts_anew(stage: Stage) -> None:
    stage.do(WishesRestored((NodeWish("a", drained=True),)))
    actions = stage.join("a")
    assert orders(actions) == [Control.DRAIN]
    assert not offers(stage.submit(1))
    assert offers(stage.do(ResumeAsked("a")))


def test_a_node_that_was_taken_back_is_told_so_by_the_next_coordinator(stage: Stage) -> None:
    stage.do(WishesRestored((NodeWish("a", drained=False),)))
    stage.say("a", NodeStatus(NodeState.INIT))
    stage.say("a", node_info("a"))
    stage.say("a", NodeStatus(NodeState.DRAINING))
    assert orders(stage.beat("a")) == [Control.RESUME]
    assert not wishes(stage)


def test_a_wish_for_a_node_that_never_came_back_can_be_changed_and_dropped(stage: Stage) -> None:
    stage.do(WishesRestored((NodeWish("a", drained=True), NodeWish("b", drained=True))))
    stage.do(ResumeAsked("a"))
    stage.do(ForgetAsked("b"))
    assert wishes(stage) == [NodeWish("a", drained=False), NodeWish("b", drained=None)]
    stage.do(DrainAsked("c"))
    assert not wishes(stage)


def test_a_node_heard_again_after_silence_is_not_taken_for_ready_unasked(stage: Stage) -> None:
    stage.join("a")
    stage.do(DrainAsked("a"))
    stage.say("a", NodeStatus(NodeState.DRAINING))
    stage.do(ResumeAsked("a"))  # lost on the way, as all else for a while
    wishes(stage)
    stage.pass_time(9000)
    assert state(stage) is NodeState.LOST
    assert orders(stage.beat("a")) == [Control.REBIRTH]
    stage.say("a", NodeStatus(NodeState.DRAINING))
    assert orders(stage.beat("a")) == [Control.RESUME]
    assert not wishes(stage)
