"""The shell's part of answers that are JSON: vocabularies from files, and where each answer is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cbor2
import numpy as np
from numpy.typing import NDArray

from maille_node.language.errors import ConstraintError
from maille_node.language.json_mode import JsonConstraint, JsonVocabulary
from maille_node.language.stage_events import SampleAt
from maille_protocol import Grammar

__all__ = ["Grammars", "read_vocabulary"]

_MAX_FILE_BYTES = 64 << 20


@dataclass(slots=True)
class _Walk:
    """One answer on its way through its grammar."""

    grammar: Grammar
    constraint: JsonConstraint
    tokens: list[int] = field(default_factory=list)


class Grammars:
    """Vocabularies by SHA-256, and one walk for each cache. Used by the threads of slices."""

    def __init__(self) -> None:
        self._vocabularies: dict[bytes, JsonVocabulary] = {}
        self._walks: dict[int, _Walk] = {}

    def add(self, sha256: bytes, vocabulary: JsonVocabulary) -> None:
        """Have a vocabulary."""
        self._vocabularies[sha256] = vocabulary

    def drop(self, sha256: bytes) -> None:
        """Forget a vocabulary."""
        self._vocabularies.pop(sha256, None)

    def forget(self, cache: int) -> None:
        """A session is over."""
        self._walks.pop(cache, None)

    def allowed(self, cache: int, wanted: SampleAt) -> NDArray[np.bool_] | None:
        """The tokens that may come next, (vocabulary,); None for all.

        Raises:
            ConstraintError: the grammar cannot be followed.
        """
        grammar = wanted.grammar
        if grammar is None:
            return None
        answer = wanted.tokens[wanted.prompt_length :]
        walk = self._walks.get(cache)
        if walk is None or walk.grammar != grammar or not _begins(answer, walk.tokens):
            walk = self._walks[cache] = _Walk(grammar, self._constraint(grammar))
        for token in answer[len(walk.tokens) :]:
            walk.constraint.accept(token)
            walk.tokens.append(token)
        return walk.constraint.allowed()

    def _constraint(self, grammar: Grammar) -> JsonConstraint:
        vocabulary = self._vocabularies.get(grammar.vocabulary.sha256)
        if vocabulary is None:
            raise ConstraintError("the model's vocabulary is not on this node any more; ask again")
        return JsonConstraint(vocabulary, grammar.schema or None)


def _begins(tokens: Sequence[int], beginning: Sequence[int]) -> bool:
    return tuple(tokens[: len(beginning)]) == tuple(beginning)


def read_vocabulary(path: Path) -> JsonVocabulary:
    """A vocabulary as the coordinator writes it (SPEC.md, token slices); takes half a second.

    Raises:
        ConstraintError: the file is none, or this node lacks the library.
    """
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ConstraintError(f"a vocabulary of {path.stat().st_size} bytes is too large")
    try:
        ends, special, tokens = cbor2.loads(path.read_bytes())
        good = all(isinstance(token, bytes) for token in tokens) and all(
            type(token) is int for token in (*ends, *special)
        )
    except (cbor2.CBORDecodeError, ValueError, TypeError) as error:
        raise ConstraintError(f"the vocabulary cannot be read: {error}") from error
    if not good:
        raise ConstraintError("the vocabulary cannot be read: it is no list of tokens")
    return JsonVocabulary(tokens, ends, special)
