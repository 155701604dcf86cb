"""What people may ask of nodes, and what they are told where it does not fit."""

from collections.abc import Callable

import pytest
from core_stage import Stage

from maille_coordinator.core.events import Event, WishesRestored
from maille_coordinator.desk import Desk
from maille_coordinator.records import NodeWish
from maille_coordinator.service import ServiceError


class DeskOfStage(Desk):
    """A desk before nothing but a core."""

    def __init__(self, stage: Stage) -> None:
        self.core = stage.core
        self._stage = stage

    @property
    def broker_connected(self) -> bool:
        return True

    def take(self, *events: Event) -> None:
        for event in events:
            self._stage.do(event)


def refused(ask: Callable[[str], None], node: str) -> tuple[int, str, str]:
    with pytest.raises(ServiceError) as caught:
        ask(node)
    return caught.value.status, caught.value.code, str(caught.value)


def test_a_node_that_was_drained_before_a_restart_and_not_heard_since(stage: Stage) -> None:
    desk = DeskOfStage(stage)
    stage.do(WishesRestored((NodeWish("attic", drained=True),)))
    for ask in (desk.drain, desk.resume):
        status, code, text = refused(ask, "attic")
        assert (status, code) == (409, "node_not_heard")
        assert "maille node forget" in text
    desk.forget("attic")
    assert refused(desk.resume, "attic")[:2] == (404, "unknown_node")
    stage.join("attic")
    desk.resume("attic")
    assert refused(desk.forget, "attic")[:2] == (409, "node_alive")
