"""Answers that are JSON, with a vocabulary of bytes and a few longer tokens."""

import json

import numpy as np
import pytest

from maille_node.language import (
    ConstraintError,
    JsonConstraint,
    JsonVocabulary,
    SamplingSettings,
    json_mode,
    random_64,
    sample,
)

pytest.importorskip("llguidance", reason="the extra `json` is not installed")

WORDS = [b'{"', b'":', b'", "', b"true", b"name", b"  ", b'"}', "é".encode(), b"<end>", b""]
TOKENS = [bytes([byte]) for byte in range(256)] + WORDS
END = TOKENS.index(b"<end>")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "tall": {"type": "boolean"},
        "sizes": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
    },
    "required": ["name", "tall", "sizes"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def vocabulary() -> JsonVocabulary:
    return JsonVocabulary(TOKENS, [END])


def generate(constraint: JsonConstraint, seed: int, most: int = 400) -> list[int]:
    """What a model without any sense would answer."""
    chosen: list[int] = []
    wish = SamplingSettings(seed=seed)
    for position in range(most):
        allowed = constraint.allowed()
        assert allowed.shape == (len(TOKENS),)
        logits = np.array([random_64(position, place) % 7 for place in range(266)], np.float32)
        # A little sense: closing what is open is a good idea.
        logits[[ord('"'), ord("]"), ord("}"), END]] += 6
        token = sample(logits, wish, position, allowed=allowed).token
        chosen.append(token)
        if token == END:
            break
        constraint.accept(token)
    return chosen


@pytest.mark.parametrize("seed", range(6))
def test_answers_follow_the_schema(vocabulary: JsonVocabulary, seed: int) -> None:
    tokens = generate(JsonConstraint(vocabulary, SCHEMA), seed)
    assert tokens[-1] == END
    answer = json.loads(b"".join(TOKENS[token] for token in tokens[:-1]))
    assert set(answer) == {"name", "tall", "sizes"}
    assert isinstance(answer["tall"], bool)
    assert all(isinstance(size, int) for size in answer["sizes"])


def test_without_a_schema_any_object_comes(vocabulary: JsonVocabulary) -> None:
    tokens = generate(JsonConstraint(vocabulary), 1)
    assert tokens[-1] == END
    assert isinstance(json.loads(b"".join(TOKENS[token] for token in tokens[:-1])), dict)


def test_another_node_goes_on_from_the_tokens(vocabulary: JsonVocabulary) -> None:
    tokens = generate(JsonConstraint(vocabulary, SCHEMA), 3)
    first, second = JsonConstraint(vocabulary, SCHEMA), JsonConstraint(vocabulary, SCHEMA)
    for token in tokens[:5]:
        first.allowed()
        first.accept(token)
    for token in tokens[:5]:
        second.accept(token)
    assert np.array_equal(first.allowed(), second.allowed())


def test_only_the_end_follows_a_whole_answer(vocabulary: JsonVocabulary) -> None:
    constraint = JsonConstraint(vocabulary, {"const": True})
    assert not constraint.finished
    for byte in b"true":
        constraint.accept(byte)
    assert np.flatnonzero(constraint.allowed()).tolist() == [END]
    assert constraint.finished


def test_a_token_that_is_not_json_is_refused(vocabulary: JsonVocabulary) -> None:
    constraint = JsonConstraint(vocabulary)
    assert not constraint.allowed()[ord("x")]
    with pytest.raises(ConstraintError, match=f"token {ord('x')} has no place"):
        constraint.accept(ord("x"))


@pytest.mark.parametrize(
    "schema",
    [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"enum": ["x" * 70_000]}, {"allOf": [False]}],
)
def test_schemas_of_no_use_are_refused(
    vocabulary: JsonVocabulary, schema: dict[str, object]
) -> None:
    with pytest.raises(ConstraintError):
        JsonConstraint(vocabulary, schema)


def test_vocabularies_of_no_use_are_refused() -> None:
    with pytest.raises(ConstraintError, match="needs an end token"):
        JsonVocabulary(TOKENS, [])
    with pytest.raises(ConstraintError, match="needs an end token"):
        JsonVocabulary(TOKENS, [len(TOKENS)])


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_mode, "json_mode_available", lambda: False)
    assert not json_mode.json_mode_available()
    with pytest.raises(ConstraintError, match=r"maille\[json\]"):
        JsonVocabulary(TOKENS, [END])
