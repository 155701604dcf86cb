"""Topics are built and taken apart alike, and every party hears what is meant for it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_strategies import identifiers

from maille_protocol import UsageError, topics
from maille_protocol.topics import Party, Topic


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(topics.TOPICS), identifiers, identifiers)
def test_round_trip(topic: Topic, mesh: str, identity: str) -> None:
    text = topic.on(mesh, identity)
    assert topics.parse(text) == topics.Address(mesh, identity, topic)
    assert text.count("/") <= 7


@pytest.mark.parametrize(
    "identity", ["", "A", "a/b", "+", "#", "-a", "a-", "a" * 33, "a\n", "\u00e9"]
)
def test_what_is_no_id_is_our_own_mistake(identity: str) -> None:
    with pytest.raises(UsageError, match="not an id"):
        topics.NODE_STATE.on("home", identity)
    with pytest.raises(UsageError, match="not an id"):
        topics.NODE_STATE.on(identity, "node-1")


def matches(topic_filter: str, text: str) -> bool:
    """MQTT 3.1.1, section 4.7."""
    wanted, given = topic_filter.split("/"), text.split("/")
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(
        want in {"+", part} for want, part in zip(wanted, given, strict=True)
    )


@pytest.mark.parametrize("topic", topics.TOPICS, ids=lambda topic: topic.suffix or "coordinator")
def test_who_hears_what(topic: Topic) -> None:
    text = topic.on("home", "one")
    coordinator = [
        qos for name, qos in topics.coordinator_subscriptions("home") if matches(name, text)
    ]
    node = [qos for name, qos in topics.node_subscriptions("home", "one") if matches(name, text)]
    client = [
        qos for name, qos in topics.client_subscriptions("home", "one") if matches(name, text)
    ]
    everyone = topic.party is Party.COORDINATOR
    up = topic.publisher is not Party.COORDINATOR and topic is not topics.NODE_ACTIVATION
    # Activations go from node to node: they would drown a coordinator.
    assert len(coordinator) == (up or everyone)
    assert len(node) == (everyone or (topic.party is Party.NODE and not up))
    assert len(client) == (everyone or (topic.party is Party.CLIENT and not up))
    # An overlap would deliver a message twice; a lower QoS would lose what was sent at a higher.
    assert all(qos >= topic.qos for qos in coordinator + node + client)


def test_nobody_hears_another_one() -> None:
    for topic in topics.TOPICS:
        if topic.party is Party.COORDINATOR:
            continue
        text = topic.on("home", "two")
        filters = topics.node_subscriptions("home", "one") + topics.client_subscriptions(
            "home", "one"
        )
        assert not any(matches(name, text) for name, _ in filters)


def test_qos_1_only_where_retained() -> None:
    assert all(topic.qos == int(topic.retain) for topic in topics.TOPICS)


def test_a_message_type_has_one_topic() -> None:
    types = [topic.message for topic in topics.TOPICS]
    assert len(types) == len(set(types))
