"""Vocabularies from files, and where an answer is in its grammar."""

from pathlib import Path

import cbor2
import numpy as np
import pytest

from maille_node.language import ConstraintError, SamplingSettings
from maille_node.language.grammars import Grammars, read_vocabulary
from maille_node.language.stage_events import SampleAt
from maille_protocol import Grammar, Reference

pytest.importorskip("llguidance", reason="the extra `json` is not installed")

TOKENS = [bytes([byte]) for byte in range(256)] + [b"<end>"]
END = 256
SHA256 = bytes(32)
BOOLEAN = Grammar(b'{"type":"boolean"}', Reference(SHA256, 1))


def write(path: Path, value: object) -> Path:
    path.write_bytes(cbor2.dumps(value))
    return path


@pytest.fixture
def grammars(tmp_path: Path) -> Grammars:
    found = Grammars()
    found.add(SHA256, read_vocabulary(write(tmp_path / "v", [[END], [END], TOKENS])))
    return found


def at(answer: bytes, grammar: Grammar | None = BOOLEAN) -> SampleAt:
    tokens = (7, 8, *answer)
    return SampleAt(SamplingSettings(), len(tokens), tokens, 2, grammar)


def allowed(grammars: Grammars, cache: int, answer: bytes) -> bytes:
    found = grammars.allowed(cache, at(answer))
    assert found is not None
    return bytes(int(token) for token in np.flatnonzero(found[:256]))


def test_an_answer_is_followed_and_taken_up_anywhere(grammars: Grammars) -> None:
    assert set(allowed(grammars, 1, b"")) >= set(b"tf")
    assert allowed(grammars, 1, b"t") == b"r"
    assert allowed(grammars, 1, b"tru") == b"e"
    # Another cache, or the same one set back: the node took over, or a token came again.
    assert allowed(grammars, 2, b"fal") == b"s"
    assert allowed(grammars, 1, b"f") == b"a"
    grammars.forget(1)
    assert allowed(grammars, 1, b"tr") == b"u"
    whole = grammars.allowed(1, at(b"true"))
    assert whole is not None
    assert whole[END]


def test_without_a_grammar_anything_goes(grammars: Grammars) -> None:
    assert grammars.allowed(1, at(b"", None)) is None


def test_a_vocabulary_that_was_dropped_is_missed(grammars: Grammars) -> None:
    grammars.drop(SHA256)
    with pytest.raises(ConstraintError, match="ask again"):
        grammars.allowed(5, at(b""))


@pytest.mark.parametrize("schema", [b"{", b"\xff", b'{"type":"dodecahedron"}'])
def test_a_schema_that_is_none(grammars: Grammars, schema: bytes) -> None:
    with pytest.raises(ConstraintError, match="schema"):
        grammars.allowed(1, at(b"", Grammar(schema, Reference(SHA256, 1))))


@pytest.mark.parametrize(
    "value",
    [5, [], [[END], [END]], [[END], [], ["text"]], [["x"], [], TOKENS], [[999], [], TOKENS], None],
)
def test_a_file_that_is_no_vocabulary(tmp_path: Path, value: object) -> None:
    with pytest.raises(ConstraintError, match="vocabulary"):
        read_vocabulary(write(tmp_path / "v", value))


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "v", [[END], [END], TOKENS])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ConstraintError, match="vocabulary"):
        read_vocabulary(path)
