"""SPEC.md says what the code does: codes, limits, topics, fields and examples."""

import dataclasses
import re
from enum import IntEnum, IntFlag

import pytest
from wire_files import PROTOCOL, vectors

from maille_protocol import (
    ModelReference,
    Reference,
    boards,
    client_messages,
    codes,
    coordinator_messages,
    language,
    limits,
    messages,
    node_messages,
    sessions,
    states,
    topics,
)
from maille_protocol.codes import MessageType
from maille_protocol.tensors import decode_tensors

SPEC = (PROTOCOL / "SPEC.md").read_text("utf-8")
ENUMERATIONS = (
    codes.MessageType,
    codes.NodeState,
    codes.NodeKind,
    codes.ModelFormat,
    codes.ResultStatus,
    codes.OutcomeStatus,
    codes.ErrorCode,
    codes.Control,
    codes.TaskFlag,
    codes.StageCommand,
    codes.StageState,
    codes.SessionCommand,
    codes.ActivationKind,
    codes.ActivationFlag,
    codes.Finish,
    codes.ModelCommand,
    codes.ModelState,
    codes.SenseCommand,
    codes.SenseMode,
    codes.Kernel,
    codes.ResetCause,
)
RECORDS = (
    *messages.MESSAGE_CLASSES.values(),
    node_messages.Measured,
    node_messages.Result,
    Reference,
    node_messages.ProgressMark,
    ModelReference,
    coordinator_messages.Offer,
    client_messages.Submission,
    client_messages.Outcome,
    sessions.Grammar,
    sessions.Sampling,
    language.Token,
    boards.Reading,
    boards.Sensor,
    boards.HeldModel,
    boards.KernelSpeed,
)
_WHO = {"n": "<node>", "c": "<coordinator>", "u": "<client>"}


def section(heading: str) -> str:
    """The text under a heading, up to the next heading of any level."""
    parts = SPEC.split(f"\n{heading}\n")
    assert len(parts) == 2, f"{heading!r} stands {len(parts) - 1} times in SPEC.md"
    return re.split(r"\n#+ ", parts[1])[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the first table, without its head."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|---"))
    found: list[list[str]] = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


@pytest.mark.parametrize("enumeration", ENUMERATIONS, ids=lambda found: found.__name__)
def test_codes_in_spec(enumeration: type[IntEnum] | type[IntFlag]) -> None:
    table = rows(section(f"### {enumeration.__name__}"))
    assert [(int(row[0]), row[1]) for row in table] == [
        (int(member), str(member.name)) for member in enumeration
    ]


def test_every_enumeration_is_in_spec() -> None:
    public = {
        getattr(codes, name)
        for name in dir(codes)
        if isinstance(getattr(codes, name), type)
        and issubclass(getattr(codes, name), IntEnum | IntFlag)
    } - {IntEnum, IntFlag}
    assert public == set(ENUMERATIONS)


def test_classes_of_the_message_types() -> None:
    for code, _, name in rows(section("### MessageType")):
        assert messages.MESSAGE_CLASSES[int(code)].__name__ == name


def test_retryable_codes() -> None:
    for code, name, _ in rows(section("### ErrorCode")):
        assert codes.ErrorCode[name].retryable == (int(code) < 100)


def test_limits_in_spec() -> None:
    table = {row[0]: int(row[1]) for row in rows(section("## 15. Limits"))}
    numbers = {
        name: value
        for name, value in vars(limits).items()
        if name.isupper() and isinstance(value, int)
    }
    assert table == numbers
    assert f"`{limits.ID_PATTERN.replace('?:', '')}`" in SPEC


def test_topics_in_spec() -> None:
    table = rows(section("## 3. Topics"))
    said = [(row[0].strip("`"), row[1], int(row[2]), row[3] == "yes", row[4]) for row in table]
    coded = [
        (
            f"{topic.party.value}/{_WHO[topic.party.value]}"
            + (f"/{topic.suffix}" if topic.suffix else ""),
            topic.publisher.name.lower(),
            topic.qos,
            topic.retain,
            topic.message.name,
        )
        for topic in topics.TOPICS
    ]
    assert said == coded


def test_subscriptions_in_spec() -> None:
    text = SPEC.split("| who | subscribes to |")[1].split("\n\n")[0]
    for filters in (
        topics.coordinator_subscriptions("m"),
        topics.node_subscriptions("m", "i"),
        topics.client_subscriptions("m", "i"),
    ):
        for topic_filter, _ in filters:
            tail = topic_filter.removeprefix("maille/1/m/")
            tail = tail.replace("n/i/", "n/<node>/").replace("u/i/", "u/<client>/")
            assert f"`{tail}`" in text


@pytest.mark.parametrize("record", RECORDS, ids=lambda found: found.__name__)
def test_fields_in_spec(record: type) -> None:
    table = rows(section(f"#### {record.__name__}"))
    assert [row[1] for row in table] == [field.name for field in dataclasses.fields(record)]
    if table[0][0] != "all":
        assert [row[0] for row in table] == [str(index) for index in range(len(table))]


def test_a_body_is_a_bare_list_where_the_table_says_all() -> None:
    for vector in vectors("messages", "good"):
        table = rows(section(f"#### {vector.text('message')}"))
        body, fields = vector.record["body"], vector.record["fields"]
        assert isinstance(body, list)
        assert isinstance(fields, dict)
        if table[0][0] == "all":
            only = fields[table[0][1]]
            assert isinstance(only, list)
            assert len(only) == len(body)
        else:
            assert len(body) == len(table)


def test_examples_are_vectors() -> None:
    examples = re.findall(r"\n`(\w+)`:\n\n```\n(.*?)```", SPEC, re.DOTALL)
    good = {vector.name: vector for vector in vectors("messages", "good")}
    assert len(examples) >= 20
    for name, text in examples:
        assert bytes.fromhex(text) == good[name].data, name
    shown = {MessageType(good[name].number("type")) for name, _ in examples}
    assert set(MessageType) - shown == {MessageType.ASK, MessageType.WITHDRAW}


def uncommented(text: str) -> bytes:
    """The bytes of an example with remarks: hex up to the first double space of each line."""
    return bytes.fromhex(" ".join(line.strip().split("  ")[0] for line in text.splitlines()))


def test_commented_examples() -> None:
    envelope = section("## 5. Envelope").split("```")[1]
    birth = next(v for v in vectors("messages", "good") if v.name == "birth")
    assert uncommented(envelope) == birth.data
    floats = next(v for v in vectors("tensors", "good") if v.name == "float32_matrix")
    text = section("## 8. Tensors").split("```")[1]
    assert uncommented(text) == floats.data
    assert decode_tensors(floats.data)["X"].ravel().tolist() == [1.0, 2.0, 3.0, -4.0]


def test_diagrams_stand_where_their_states_are_explained() -> None:
    assert "<!-- states: presence -->" in section("## 9. Presence")
    assert "<!-- states: task -->" in section("## 10. Tasks")
    assert len(states.TASK_TRANSITIONS) == 8


def test_links_inside_the_page() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", SPEC, re.MULTILINE)
    }
    for target in re.findall(r"\]\(#([^)]*)\)", SPEC):
        assert target in anchors, target
    files = re.findall(r"`?\]\((\w[\w./]*)\)", SPEC)
    assert {"maille.cddl", "asyncapi.yaml", "vectors"} <= set(files)
    for file in files:
        assert (PROTOCOL / file).exists(), file
