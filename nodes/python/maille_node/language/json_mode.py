"""Answers that are JSON: at each step, the tokens that can still lead to a valid one.

Built on `llguidance` (the optional extra `json`), which walks a grammar over the vocabulary's
bytes. A constraint has no state but the tokens it took, so the node that takes over a generation
makes another one and lets it take them again.
"""

import importlib.util
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from maille_node.language.errors import ConstraintError

__all__ = ["JsonConstraint", "JsonVocabulary", "json_mode_available"]

MOST_SCHEMA_BYTES = 64 * 1024
_ANY_OBJECT: Mapping[str, object] = {"type": "object"}
# Bounded, or a small model may write spaces until its tokens run out.
_LAYOUT = {"whitespace_pattern": r"[ \n]{0,12}"}


def json_mode_available() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("llguidance") is not None


class JsonVocabulary:
    """A model's tokens, prepared once for all its constraints (a quarter of a second for 49,152)."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        end_tokens: Iterable[int],
        special: Collection[int] = (),
        encode: Callable[[bytes], list[int]] | None = None,
    ) -> None:
        """Prepare the tokens.

        Args:
            tokens: the bytes of each, in the order of the logits; empty for one without text.
            end_tokens: that end an answer; at least one.
            special: tokens that are no text.
            encode: cuts text into tokens as the model's tokeniser does; None for longest first.

        Raises:
            ConstraintError: the library is not installed, or the tokens are of no use.
        """
        if not json_mode_available():
            raise ConstraintError(
                "JSON answers need the package llguidance, which is not on this node: install "
                "`maille[json]` there, or ask for plain text"
            )
        # Six megabytes that a node without such answers does not need.
        import llguidance  # noqa: PLC0415

        self.size = len(tokens)
        self.end_tokens = tuple(end_tokens)
        inside = range(self.size)
        if not self.end_tokens or any(
            token not in inside for token in (*self.end_tokens, *special)
        ):
            raise ConstraintError(
                f"a vocabulary needs an end token, and all its special tokens among its {self.size}"
            )
        source = _Source(tokens, self.end_tokens, special, encode or _Longest(tokens))
        try:
            self.tokenizer = llguidance.LLTokenizer(
                source,  # type: ignore[arg-type]
                eos_token=list(self.end_tokens),
            )
        except (ValueError, TypeError, RuntimeError) as error:
            raise ConstraintError(
                f"this vocabulary does not allow JSON answers ({error}); ask for plain text"
            ) from error


class JsonConstraint:
    """Follows one answer."""

    def __init__(
        self, vocabulary: JsonVocabulary, schema: Mapping[str, object] | bytes | None = None
    ) -> None:
        """Start an answer.

        Args:
            vocabulary: of the model.
            schema: JSON schema that the answer follows, or its UTF-8; None for any object.

        Raises:
            ConstraintError: the schema is too large, not one, or of a kind that is not supported.
        """
        self._size = vocabulary.size
        try:
            text = (
                schema.decode()
                if isinstance(schema, bytes)
                else json.dumps(_ANY_OBJECT if schema is None else schema)
            )
        except UnicodeDecodeError as error:
            raise ConstraintError(f"the JSON schema is no UTF-8: {error}") from error
        if len(text) > MOST_SCHEMA_BYTES:
            raise ConstraintError(
                f"the JSON schema has {len(text)} bytes; shorten it to {MOST_SCHEMA_BYTES}"
            )
        import llguidance  # noqa: PLC0415

        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(
                text,
                overrides=_LAYOUT,  # type: ignore[arg-type]
            )
        except ValueError as error:
            raise ConstraintError(f"not a JSON schema: {_short(str(error))}") from error
        self._matcher = llguidance.LLMatcher(vocabulary.tokenizer, grammar, log_level=0)
        self._check("this JSON schema cannot be followed")

    def allowed(self) -> NDArray[np.bool_]:
        """Tokens that may come next, (vocabulary,); when the answer is whole, the end tokens.

        Raises:
            ConstraintError: the grammar became too complex.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check("the JSON answer cannot go on")
        return np.unpackbits(bits, count=self._size, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        """Take the token that was chosen.

        Raises:
            ConstraintError: it was not among those allowed.
        """
        if not self._matcher.consume_token(token):
            self._check(f"token {token} has no place in this JSON answer")

    @property
    def finished(self) -> bool:
        """Whether the answer is whole and nothing but its end can follow."""
        return self._matcher.is_stopped()

    def _check(self, what: str) -> None:
        if self._matcher.is_error():
            raise ConstraintError(
                f"{what}: {_short(self._matcher.get_error())}; change the schema or ask for plain "
                "text"
            )


class _Source:
    """What `llguidance` reads of a tokeniser."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(
        self,
        tokens: Sequence[bytes],
        end_tokens: Sequence[int],
        special: Collection[int],
        encode: Callable[[bytes], list[int]],
    ) -> None:
        self.tokens = list(tokens)
        self.eos_token_id = end_tokens[0]
        self.special_token_ids = sorted({*special, *end_tokens})
        self._encode = encode

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text.encode() if isinstance(text, str) else text)


class _Longest:
    """Cuts text by always taking the longest token."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self._numbers: dict[bytes, int] = {}
        for number, token in enumerate(tokens):
            if token:
                self._numbers.setdefault(token, number)
        self._longest = max(map(len, self._numbers), default=0)

    def __call__(self, text: bytes) -> list[int]:
        found = []
        at = 0
        while at < len(text):
            for length in range(min(self._longest, len(text) - at), 0, -1):
                number = self._numbers.get(text[at : at + length])
                if number is not None:
                    found.append(number)
                    at += length
                    break
            else:
                at += 1  # no token has this byte
        return found


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
