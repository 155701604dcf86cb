"""`asyncapi.yaml` is a sound AsyncAPI 3.0 document and lists just the topics of the code."""

import re
from collections.abc import Iterator
from typing import TypeAlias, cast

import pytest
import yaml
from wire_files import PROTOCOL

from maille_protocol import MessageType, topics
from maille_protocol.limits import PROTOCOL_VERSION
from maille_protocol.messages import MESSAGE_CLASSES

Node: TypeAlias = "dict[str, Node] | list[Node] | str | int | bool | None"
Table: TypeAlias = "dict[str, Node]"

DOCUMENT = cast("Table", yaml.safe_load((PROTOCOL / "asyncapi.yaml").read_text("utf-8")))
CDDL = (PROTOCOL / "maille.cddl").read_text("utf-8")
_PARAMETER = {"n": "node", "c": "coordinator", "u": "client"}


def table(value: Node) -> Table:
    assert isinstance(value, dict), value
    return value


def at(pointer: str) -> Node:
    """What a local reference points to."""
    assert pointer.startswith("#/"), pointer
    found: Node = DOCUMENT
    for part in pointer[2:].split("/"):
        found = table(found)[part.replace("~1", "/").replace("~0", "~")]
    return found


def resolved(value: Node) -> Table:
    found = table(value)
    while "$ref" in found:
        assert list(found) == ["$ref"], "a reference has no other keys"
        found = table(at(str(found["$ref"])))
    return found


def references(value: Node) -> Iterator[str]:
    match value:
        case dict():
            if "$ref" in value:
                yield str(value["$ref"])
            for part in value.values():
                yield from references(part)
        case list():
            for part in value:
                yield from references(part)
        case _:
            return


def channels() -> dict[str, Table]:
    return {name: table(channel) for name, channel in table(DOCUMENT["channels"]).items()}


def operations() -> dict[str, Table]:
    return {name: table(found) for name, found in table(DOCUMENT["operations"]).items()}


def address_of(topic: topics.Topic) -> str:
    party = topic.party.value
    root = f"maille/{PROTOCOL_VERSION}/{{mesh}}/{party}/{{{_PARAMETER[party]}}}"
    return f"{root}/{topic.suffix}" if topic.suffix else root


def test_head() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert set(DOCUMENT) == {
        "asyncapi",
        "id",
        "info",
        "defaultContentType",
        "servers",
        "channels",
        "operations",
        "components",
    }
    info = table(DOCUMENT["info"])
    assert {"title", "version"} <= set(info)
    assert re.fullmatch(r"urn:[a-z0-9:]+", str(DOCUMENT["id"]))


def test_all_references_resolve() -> None:
    found = list(references(DOCUMENT))
    assert found
    for pointer in found:
        assert at(pointer) is not None


def test_server() -> None:
    (server,) = table(DOCUMENT["servers"]).values()
    server = table(server)
    assert server["protocol"] == "mqtt"
    assert server["protocolVersion"] == "3.1.1"
    used = set(re.findall(r"\{(\w+)\}", str(server["host"])))
    assert used == set(table(server["variables"]))
    binding = table(table(server["bindings"])["mqtt"])
    assert set(binding) == {"clientId", "cleanSession", "keepAlive", "lastWill", "bindingVersion"}
    assert binding["cleanSession"] is True
    will = table(binding["lastWill"])
    assert set(will) == {"topic", "qos", "retain", "message"}
    assert will["topic"] == address_of(topics.COORDINATOR)
    assert will["qos"] == topics.COORDINATOR.qos
    assert will["retain"] == topics.COORDINATOR.retain


def test_addresses_are_the_topics() -> None:
    said = [str(channel["address"]) for channel in channels().values()]
    assert len(said) == len(set(said))
    assert set(said) == {address_of(topic) for topic in topics.TOPICS}


@pytest.mark.parametrize("name", channels())
def test_channel(name: str) -> None:
    channel = channels()[name]
    assert set(channel) == {"address", "title", "servers", "parameters", "messages"}
    used = re.findall(r"\{(\w+)\}", str(channel["address"]))
    assert used == list(table(channel["parameters"]))
    for parameter in table(channel["parameters"]).values():
        assert set(resolved(parameter)) <= {
            "enum",
            "default",
            "description",
            "examples",
            "location",
        }
    assert len(table(channel["messages"])) == 1


@pytest.mark.parametrize("topic", topics.TOPICS, ids=lambda topic: topic.suffix or "coordinator")
def test_topic_has_its_channel_and_operation(topic: topics.Topic) -> None:
    (name,) = [
        name for name, channel in channels().items() if channel["address"] == address_of(topic)
    ]
    (operation,) = [
        found
        for found in operations().values()
        if table(found["channel"])["$ref"] == f"#/channels/{name}"
    ]
    between_nodes = topic.publisher is topics.Party.NODE and topic.suffix.startswith("dn/")
    coordinator_publishes = topic.publisher is topics.Party.COORDINATOR
    assert operation["action"] == ("send" if coordinator_publishes or between_nodes else "receive")
    marks = {key: value for key, value in operation.items() if key.startswith("x-")}
    assert marks == ({"x-from": "node", "x-to": "node"} if between_nodes else {})
    assert table(table(operation["bindings"])["mqtt"]) == {
        "qos": topic.qos,
        "retain": topic.retain,
        "bindingVersion": "0.2.0",
    }
    ((key, message),) = table(channels()[name]["messages"]).items()
    assert operation["messages"] == [{"$ref": f"#/channels/{name}/messages/{key}"}]
    assert resolved(message)["x-message-type"] == int(topic.message)
    assert resolved(message)["name"] == key == MESSAGE_CLASSES[topic.message].__name__


def test_every_operation_belongs_to_a_topic() -> None:
    used = [str(table(found["channel"])["$ref"]) for found in operations().values()]
    assert sorted(used) == sorted(f"#/channels/{name}" for name in channels())
    for found in operations().values():
        standard = {key for key in found if not key.startswith("x-")}
        assert standard == {"action", "summary", "channel", "messages", "bindings"}


def test_just_one_operation_goes_past_the_coordinator() -> None:
    between = [name for name, found in operations().items() if "x-from" in found]
    assert between == ["sendNodeAct"]


def test_messages() -> None:
    found = table(table(DOCUMENT["components"])["messages"])
    numbers: list[int] = []
    for name, value in found.items():
        message = table(value)
        number = message["x-message-type"]
        assert isinstance(number, int)
        numbers.append(number)
        assert MESSAGE_CLASSES[number].__name__ == name
        assert message["contentType"] == DOCUMENT["defaultContentType"] == "application/cbor"
        payload = table(message["payload"])
        assert set(payload) == {"schemaFormat", "schema"}
        rule = f"{MessageType(number).name.lower().replace('_', '-')}-message"
        assert payload["schema"] == rule
        assert f"\n{rule} = [ " in re.sub(r" +", " ", CDDL)
    assert sorted(numbers) == [int(message_type) for message_type in MessageType]


def test_no_component_is_unused() -> None:
    used = set(references(DOCUMENT))
    for kind in ("messages", "parameters"):
        for name in table(table(DOCUMENT["components"])[kind]):
            assert f"#/components/{kind}/{name}" in used
