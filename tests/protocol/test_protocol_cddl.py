"""`maille.cddl` says the same as the Python messages: both ways, against pycddl."""

import re
from collections.abc import Sequence
from enum import IntEnum
from functools import cache

import cbor2
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
_SIZE = "takes numbers, texts, bytes and arrays alike for `.size`"
_TAGS = "takes any tag where a choice also names an array"
_OPTIONAL = "takes any array where a choice of null and an array stands"
_SIGNED = "takes any positive number where a choice also names negative ones"
_COUNT = "does not count a list of lists"

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
    "stage_order_slice_without_size": _OPTIONAL,
    "stage_order_slice_31_bytes": _OPTIONAL,
    "stage_order_slice_too_large": _OPTIONAL,
    "stage_report_text_bytes": _SIZE,
    "route_bare_node": _LATER_ELEMENTS,
    "route_256_stages": _COUNT,
    "session_order_sampling_short": _OPTIONAL,
    "session_order_temperature_float": _OPTIONAL,
    "session_order_top_p_beyond": _OPTIONAL,
    "session_order_min_p_negative": _OPTIONAL,
    "session_order_presence_beyond": _OPTIONAL,
    "session_order_seed_negative": _OPTIONAL,
    "session_order_top_logprobs_21": _OPTIONAL,
    "session_order_bias_bare_token": _OPTIONAL,
    "session_order_bias_below": _OPTIONAL,
    "session_order_bias_beyond": _SIGNED,
    "session_order_grammar_null": _OPTIONAL,
    "session_order_grammar_without_vocabulary": _OPTIONAL,
    "session_order_two_grammars": _COUNT,
    "session_order_grammar_text": _SIZE,
    "session_order_grammar_beyond": _OPTIONAL,
    "tokens_bare_token": _LATER_ELEMENTS,
    "tokens_second_is_bad": _LATER_ELEMENTS,
    "model_order_model_short": _OPTIONAL,
    "model_order_sha256_31_bytes": _OPTIONAL,
    "chunk_data_text": _SIZE,
    "sense_order_sensor_bytes": _SIZE,
    "readings_of_number": _LATER_ELEMENTS,
    "readings_bare": _LATER_ELEMENTS,
    "reading_second_is_bad": _LATER_ELEMENTS,
    "reading_content_text": _SIZE,
    "reading_content_reference": _SIZE,
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


def part_of(vector: Vector, place: Sequence[int]) -> bytes:
    """One field of a message's body, encoded by itself."""
    part: object = cbor2.loads(bytes.fromhex(vector.text("body_hex")))
    for index in place:
        assert isinstance(part, list)
        part = part[index]
    return cbor2.dumps(part)


PARTS_THAT_PYCDDL_MISSES_IN_THEIR_MESSAGE: dict[str, tuple[str, Sequence[int]]] = {
    **{
        vector.name: ("sampling-settings", (9,))
        for vector in vectors("messages", "bad")
        if vector.text("message") == "SessionOrder"
        and MISSED_BY_PYCDDL.get(vector.name) == _OPTIONAL
    },
    "session_order_bias_bare_token": ("token-bias", (9, 10, 0)),
    "session_order_bias_below": ("token-bias", (9, 10, 0)),
    "session_order_grammar_without_vocabulary": ("grammar", (9, 11, 0)),
    "session_order_grammar_beyond": ("grammar", (9, 11, 0)),
    "stage_order_slice_without_size": ("reference", (3,)),
    "stage_order_slice_31_bytes": ("reference", (3,)),
    "stage_order_slice_too_large": ("reference", (3,)),
    "tokens_bare_token": ("token-found", (3, 0)),
    "tokens_second_is_bad": ("token-found", (3, 1)),
    "model_order_model_short": ("model-reference", (1,)),
    "model_order_sha256_31_bytes": ("model-reference", (1,)),
    "readings_of_number": ("reading", (0,)),
    "readings_bare": ("reading", (0,)),
    "reading_second_is_bad": ("reading", (1,)),
    "route_bare_node": ("stage-nodes", (2, 0)),
}


@pytest.mark.parametrize("name", PARTS_THAT_PYCDDL_MISSES_IN_THEIR_MESSAGE)
def test_bad_parts_are_invalid_by_themselves(name: str) -> None:
    rule, place = PARTS_THAT_PYCDDL_MISSES_IN_THEIR_MESSAGE[name]
    (bad,) = [vector for vector in vectors("messages", "bad") if vector.name == name]
    assert not accepts(rule, part_of(bad, place))


@pytest.mark.parametrize(
    ("name", "rule", "place"),
    [
        ("session_open", "sampling-settings", (9,)),
        ("session_open_largest", "sampling-settings", (9,)),
        ("stage_load", "reference", (3,)),
        ("tokens_with_20_alternatives", "token-found", (3, 0)),
        ("model_deploy", "model-reference", (1,)),
        ("readings_of_two", "reading", (1,)),
        ("board_state_largest", "held-model", (1, 0)),
        ("route_with_8_shadows", "stage-nodes", (2, 0)),
    ],
)
def test_good_parts_are_valid_by_themselves(name: str, rule: str, place: Sequence[int]) -> None:
    (good,) = [vector for vector in vectors("messages", "good") if vector.name == name]
    schema(rule).validate_cbor(part_of(good, place))


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
        ("stage-command", codes.StageCommand),
        ("stage-state", codes.StageState),
        ("session-command", codes.SessionCommand),
        ("activation-kind", codes.ActivationKind),
        ("finish-code", codes.Finish),
        ("model-command", codes.ModelCommand),
        ("model-state", codes.ModelState),
        ("sense-command", codes.SenseCommand),
        ("sense-mode", codes.SenseMode),
        ("kernel-code", codes.Kernel),
        ("reset-cause", codes.ResetCause),
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
    assert f"data: bytes .size (0..{limits.MAX_CHUNK_BYTES})" in CDDL
    assert code_in("chunk-length") == f"0..{limits.MAX_CHUNK_BYTES}"
    assert code_in("sensor-text") == f"tstr .size (0..{4 * limits.MAX_SENSOR_NAME_CHARACTERS})"
    assert code_in("activation-data") == f"bytes .size (0..{limits.MAX_ACTIVATION_DATA_BYTES})"
    assert code_in("token-list") == f"bytes .size (0..{limits.MAX_PUBLISH_BYTES})"
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
