"""The tokens of a GGUF model, as the file lists them."""

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from maille_coordinator.slices.errors import UnsupportedModelError
from maille_coordinator.slices.gguf_file import GgufFile

__all__ = ["LLAMA3_SPLITS", "TokenKind", "Vocabulary", "read_vocabulary"]

# Names of the rule that Llama 3 splits text by. Its models start a text with a token even where the
# file does not say so.
LLAMA3_SPLITS = frozenset({"llama-bpe", "llama3", "llama-v3"})
# What the writers of chat models name the token that ends a turn, where it is not the file's EOS.
_END_OF_TURN = frozenset({"<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>", "<|eom_id|>"})

_Item = TypeVar("_Item", str, int, float)


class TokenKind(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, repr=False)
class Vocabulary:
    """Tokens, and the rules by which text becomes them.

    Attributes:
        method: `gpt2` (byte-level BPE with merges) or `llama` (SentencePiece with scores).
        split: which rule cuts text into words before the merges (`tokenizer.ggml.pre`).
        tokens: the text of each token, in the method's own alphabet.
        kinds: what each token is.
        merges: pairs of token texts, best first; empty for `llama`.
        scores: for `llama`, higher merges first; empty for `gpt2`.
        bos_token: what a text starts with, None for nothing.
        eos_tokens: what ends a generation: the file's own end and end-of-turn tokens.
        add_bos: whether an encoded text starts with `bos_token`.
        add_eos: whether an encoded text ends with the file's end token.
        eos_token: the file's own end token.
        unknown_token: for text no token covers.
        add_space_prefix: `llama` only: a text starts as if it had a space before it.
    """

    method: str
    split: str
    tokens: tuple[str, ...]
    kinds: tuple[TokenKind, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    bos_token: int | None
    eos_tokens: frozenset[int]
    add_bos: bool
    add_eos: bool
    eos_token: int | None
    unknown_token: int | None
    add_space_prefix: bool

    def __repr__(self) -> str:
        return f"Vocabulary({self.method}, {self.split}, {len(self.tokens)} tokens)"


def read_vocabulary(source: GgufFile) -> Vocabulary:
    """Read the tokeniser part of a file.

    Raises:
        ModelFileError: a part is missing or does not fit the others.
        UnsupportedModelError: the tokeniser is neither `gpt2` nor `llama`.
    """
    method = source.text("tokenizer.ggml.model")
    if method not in {"gpt2", "llama"}:
        raise UnsupportedModelError(
            f"{source.path.name} has a tokeniser of kind {method!r}; this program reads gpt2 "
            "(byte-level BPE) and llama (SentencePiece): choose a model with one of these"
        )
    tokens = tuple(_list(source, "tokenizer.ggml.tokens", str))
    kinds_key = "tokenizer.ggml.token_type"
    kinds = (
        tuple(_kind(source, number) for number in _list(source, kinds_key, int))
        if kinds_key in source.fields
        else (TokenKind.NORMAL,) * len(tokens)
    )
    merges = tuple(_list(source, "tokenizer.ggml.merges", str)) if method == "gpt2" else ()
    scores = tuple(_list(source, "tokenizer.ggml.scores", float)) if method == "llama" else ()
    if len(kinds) != len(tokens) or (scores and len(scores) != len(tokens)):
        raise source.fault("its lists of tokens, kinds and scores differ in length")

    def token(name: str) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        if key not in source.fields:
            return None
        number = source.whole(key)
        if number >= len(tokens):
            raise source.fault(f"{key} is {number}, there are {len(tokens)} tokens")
        return number

    eos = token("eos")
    ends = {eos, token("eot"), token("eom")} | {
        number
        for number, text in enumerate(tokens)
        if text in _END_OF_TURN and kinds[number] in {TokenKind.CONTROL, TokenKind.USER_DEFINED}
    }
    split = source.text("tokenizer.ggml.pre", "default")
    return Vocabulary(
        method=method,
        split=split,
        tokens=tokens,
        kinds=kinds,
        merges=merges,
        scores=scores,
        bos_token=token("bos"),
        eos_tokens=frozenset(number for number in ends if number is not None),
        add_bos=source.flag(
            "tokenizer.ggml.add_bos_token", default=method == "llama" or split in LLAMA3_SPLITS
        ),
        add_eos=source.flag("tokenizer.ggml.add_eos_token", default=False),
        eos_token=eos,
        unknown_token=token("unknown"),
        add_space_prefix=source.flag("tokenizer.ggml.add_space_prefix", default=method == "llama"),
    )


def _list(source: GgufFile, key: str, kind: type[_Item]) -> list[_Item]:
    value = source.fields.get(key)
    if not isinstance(value, list) or not value:
        raise source.fault(f"the list {key} is missing")
    try:
        return [kind(item) for item in value]
    except (TypeError, ValueError) as error:
        raise source.fault(f"the list {key} holds something else than {kind.__name__}") from error


def _kind(source: GgufFile, number: int) -> TokenKind:
    try:
        return TokenKind(number)
    except ValueError as error:
        raise source.fault(f"a token has the unknown kind {number}") from error
