"""`maille.cddl` says the same as the Python messages: both ways, against pycddl."""

import re
from enum import IntEnum
from functools import cache

import pycddl  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_files import PROTOCOL, Vector, vectors
from wire_strategies import MESSAGES, named_tensors

from maille_protocol import Message, MessageType, codes, limits, pack
from maille_protocol.tensors import Array, encode_tensors

CDDL = (PROTOCOL / "maille.cddl").read_text("utf-8")

_LATER_ELEMENTS = "looks at the first element of a list only, and takes it bare"
_SIZE = "takes numbers, texts and bytes alike for `.size`"
_TAGS = "takes any tag where a choice also names an array"

MISSED_BY_PYCDDL = {
    "status_reason_bytes": _SIZE,
    "info_accelerator_number": _SIZE,
    "heartbeat_held_without_attempt": _LATER_ELEMENTS,
    "results_of_number": _LATER_ELEMENTS,
    "result_content_text": _SIZE,
    "result_reference_31_bytes": _LATER_ELEMENTS,
    "result_reference_without_size": _LATER_ELEMENTS,
    "result_reference_too_large": _LATER_ELEMENTS,
    "result_second_is_bad": _LATER_ELEMENTS,
    "log_text_number": _SIZE,
    "offers_model_name_bytes": _SIZE,
    "cancel_bare_tasks": _LATER_ELEMENTS,
    "accepted_number": _LATER_ELEMENTS,
    "ask_text": _SIZE,
    "name_number": _SIZE,
    "name_bytes": _SIZE,
    "257_tensors": _LATER_ELEMENTS,
    "tag_76": _TAGS,
    "tag_83": _TAGS,
    "nested_tag": _TAGS,
    "typed_array_of_text": _TAGS,
    "typed_array_of_array": _TAGS,
}
"""Bad vectors that the CDDL forbids and pycddl 0.6.4 takes all the same: its faults, not the CDDL's."""


def rule_of(message_type: int) -> str:
    try:
        name = MessageType(message_type).name
    except ValueError:
        name = "NODE_STATUS"
    return f"{name.lower().replace('_', '-')}-message"


@cache
def schema(rule: str) -> pycddl.Schema:
    """A validator for one rule.

    pycddl starts at the first rule, is unsure among many arrays, and searches where `.regexp`
    must match the whole text.
    """
    anchored = re.sub(r'\.regexp "(.*)"', r'.regexp "^(\1)$"', CDDL)
    return pycddl.Schema(f"root = {rule}\n{anchored}")


def accepts(rule: str, data: bytes) -> bool:
    try:
        schema(rule).validate_cbor(data)
    except pycddl.ValidationError:
        return False
    except ValueError:  # not CBOR at all
        return False
    return True


def code_in(name: str) -> str:
    """What a rule of numbers says, such as `0..5`."""
    found = re.search(rf"^{name} = ([^;\n]*)", CDDL, re.MULTILINE)
    assert found, f"{name} is not in maille.cddl"
    return found[1].strip()


@pytest.mark.parametrize("message_type", MessageType, ids=lambda found: found.name)
def test_every_message_we_make_is_valid(message_type: MessageType) -> None:
    rule = rule_of(message_type)

    @settings(max_examples=15, deadline=None)
    @given(MESSAGES[message_type], st.integers(0, limits.MAX_UINT64))
    def check(message: Message, number: int) -> None:
        data = pack(message, boot=number, seq=number, epoch=number)
        schema(rule).validate_cbor(data)

    check()


@settings(max_examples=60, deadline=None)
@given(named_tensors)
def test_tensors_we_make_are_valid(tensors: dict[str, Array]) -> None:
    schema("tensors").validate_cbor(encode_tensors(tensors))


@pytest.mark.parametrize(
    "vector", vectors("messages", "good") + vectors("envelope", "good"), ids=str
)
def test_good_vectors_are_valid(vector: Vector) -> None:
    schema(rule_of(vector.number("type"))).validate_cbor(vector.data)


@pytest.mark.parametrize("vector", vectors("tensors", "good"), ids=str)
def test_good_tensors_are_valid(vector: Vector) -> None:
    schema("tensors").validate_cbor(vector.data)


@pytest.mark.parametrize("vector", vectors("messages", "bad"), ids=str)
def test_bad_messages_are_invalid(vector: Vector) -> None:
    expected = vector.flag("cddl_accepts") or vector.name in MISSED_BY_PYCDDL
    assert accepts(rule_of(vector.number("type")), vector.data) == expected


@pytest.mark.parametrize("vector", vectors("envelope", "bad"), ids=str)
def test_bad_envelopes_are_invalid(vector: Vector) -> None:
    assert accepts("node-status-message", vector.data) == vector.flag("cddl_accepts")


@pytest.mark.parametrize("vector", vectors("tensors", "bad"), ids=str)
def test_bad_tensors_are_invalid(vector: Vector) -> None:
    expected = vector.flag("cddl_accepts") or vector.name in MISSED_BY_PYCDDL
    assert accepts("tensors", vector.data) == expected


def test_publish_lists_every_message() -> None:
    definition = CDDL.split("publish =", 1)[1].split("\n\n", 1)[0]
    named = {part.strip() for part in definition.replace("\n", " ").split("/")}
    assert named == {rule_of(message_type) for message_type in MessageType}


def test_message_numbers() -> None:
    for message_type in MessageType:
        rule = rule_of(message_type)
        found = re.search(rf"^{rule} = \[ *(\d+), +(\d+),", CDDL, re.MULTILINE)
        assert found, rule
        assert (int(found[1]), int(found[2])) == (limits.PROTOCOL_VERSION, int(message_type))


@pytest.mark.parametrize(
    ("rule", "enumeration"),
    [
        ("node-state", codes.NodeState),
        ("node-kind", codes.NodeKind),
        ("model-format", codes.ModelFormat),
        ("result-status", codes.ResultStatus),
        ("outcome-status", codes.OutcomeStatus),
        ("error-code", codes.ErrorCode),
        ("control-command", codes.Control),
    ],
)
def test_codes(rule: str, enumeration: type[IntEnum]) -> None:
    numbers: set[int] = set()
    for part in code_in(rule).split("/"):
        first, last = part.split("..")
        numbers |= set(range(int(first), int(last) + 1))
    assert numbers == {int(member) for member in enumeration}


def test_limits() -> None:
    assert code_in("inline-content") == f"bytes .size (0..{limits.MAX_INLINE_CONTENT_BYTES})"
    assert code_in("task-id") == f"bytes .size {limits.TASK_ID_BYTES}"
    assert code_in("sha256") == f"bytes .size {limits.SHA256_BYTES}"
    assert code_in("warm-model") == f"bytes .size {limits.WARM_MODEL_BYTES}"
    assert code_in("artefact-size") == f"0..{limits.MAX_ARTEFACT_BYTES}"
    assert code_in("free-text") == f"tstr .size (0..{4 * limits.MAX_TEXT_CHARACTERS})"
    assert code_in("tensors") == f"[*{limits.MAX_TENSORS} named-tensor]"
    assert f"[*{limits.MAX_DIMENSIONS} dimension]" in CDDL
    assert f"at most {limits.MAX_PUBLISH_BYTES} bytes" in CDDL
    assert f"at most {limits.MAX_ITEMS_PER_MESSAGE} items" in CDDL


def test_what_pycddl_misses_is_still_there() -> None:
    names = {vector.name for file in ("messages", "tensors") for vector in vectors(file, "bad")}
    assert set(MISSED_BY_PYCDDL) <= names


def test_ids_have_the_pattern_of_the_limits() -> None:
    found = re.search(r'^id = tstr \.regexp "(.*)"$', CDDL, re.MULTILINE)
    assert found
    assert found[1].replace("(", "(?:") == limits.ID_PATTERN
