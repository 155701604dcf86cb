"""Text to tokens and back, from what the model's own file says.

`tokenizers` does the merging. What it must do is built from the GGUF: the merges (or, for
SentencePiece models, the scores), the split rule by its GGUF name, the special tokens. Decoding is
a table from token to bytes, so that a stream of tokens can be shown as it comes without ever
cutting a character in half.
"""

import codecs
import re
from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import models, pre_tokenizers

from maille_coordinator.slices.errors import UnsupportedModelError
from maille_coordinator.slices.vocabulary import LLAMA3_SPLITS, TokenKind, Vocabulary

__all__ = ["TextStream", "Tokenizer"]

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"


def _by_digits(digits: str) -> str:
    """The rule of Llama 3, with so many digits in a row."""
    return (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_LLAMA3 = (_by_digits(r"\p{N}{1,3}"),)
_QWEN2 = (_by_digits(r"\p{N}"),)
# `tokenizer.ggml.pre` to the rules that cut a text, each applied to what the one before left.
_SPLITS = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    **dict.fromkeys(LLAMA3_SPLITS, _LLAMA3),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}
_SPACE = "▁"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """Encodes and decodes for one model."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Build the tokeniser of a model.

        Raises:
            UnsupportedModelError: the model splits text by a rule this program does not know.
        """
        self._vocabulary = vocabulary
        self._method = vocabulary.method
        if vocabulary.method == "gpt2":
            self._merger = _byte_level(vocabulary)
            letters = {letter: byte for byte, letter in enumerate(_byte_letters())}
            self._bytes = [
                _letters_to_bytes(text, kind, letters)
                for text, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
            ]
        else:
            self._merger = _sentence_piece(vocabulary)
            self._bytes = [
                _piece_to_bytes(text, kind)
                for text, kind in zip(vocabulary.tokens, vocabulary.kinds, strict=True)
            ]
        self._numbers = {text: number for number, text in enumerate(vocabulary.tokens)}
        always = self._texts(TokenKind.USER_DEFINED)
        self._always = _any_of(always)
        self._special = _any_of(always + self._texts(TokenKind.CONTROL, TokenKind.UNKNOWN))
        self._control = frozenset(
            number
            for number, kind in enumerate(vocabulary.kinds)
            if kind in {TokenKind.CONTROL, TokenKind.UNKNOWN}
        )

    def _texts(self, *kinds: TokenKind) -> list[str]:
        vocabulary = self._vocabulary
        pairs = zip(vocabulary.tokens, vocabulary.kinds, strict=True)
        return [text for text, kind in pairs if kind in kinds and text]

    def encode(self, text: str, *, special: bool = False, add_bos: bool | None = None) -> list[int]:
        """Cut a text into tokens.

        Args:
            text: any text; lone surrogates become replacement characters.
            special: whether the names of control tokens in it (`<|im_start|>`) are those tokens.
                Say so for a filled-in chat template, never for what a user typed.
            add_bos: whether to start with the model's first token; None for as the model says.
        """
        vocabulary = self._vocabulary
        tokens: list[int] = []
        wanted = vocabulary.add_bos if add_bos is None else add_bos
        if wanted and vocabulary.bos_token is not None:
            tokens.append(vocabulary.bos_token)
        clean = text.encode("utf-8", "replace").decode("utf-8")
        pattern = self._special if special else self._always
        starts_text = True
        for piece in pattern.split(clean) if pattern else [clean]:
            if not piece:
                continue
            if pattern and pattern.fullmatch(piece):
                tokens.append(self._numbers[piece])
            else:
                tokens += self._merge(piece, starts_text=starts_text)
            starts_text = True
        return tokens

    def _merge(self, text: str, *, starts_text: bool) -> list[int]:
        if self._method == "llama":
            prefix = " " if self._vocabulary.add_space_prefix and starts_text else ""
            text = (prefix + text).replace(" ", _SPACE)
        numbers: list[int] = self._merger.encode(text, add_special_tokens=False).ids
        return numbers

    def decode(self, tokens: Iterable[int], *, special: bool = False) -> str:
        """The text of tokens; bytes that are no UTF-8 become replacement characters.

        Args:
            tokens: numbers below the vocabulary's size.
            special: whether control tokens show by their names; otherwise they show as nothing.
        """
        stream = TextStream(self, special=special)
        return "".join([*(stream.add(token) for token in tokens), stream.end()])

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that one token adds to a text; none for a token the model has no text for."""
        if not 0 <= token < len(self._bytes):
            return b""
        if token in self._control:
            return self._vocabulary.tokens[token].encode() if special else b""
        return self._bytes[token]

    @property
    def drops_first_space(self) -> bool:
        """Whether a decoded text starts with a space that encoding put there."""
        return self._method == "llama" and self._vocabulary.add_space_prefix


class TextStream:
    """Turns tokens into text one by one, holding back bytes until their character is whole."""

    def __init__(
        self, tokenizer: Tokenizer, *, special: bool = False, continues: bool = False
    ) -> None:
        """Start a text.

        Args:
            tokenizer: of the model.
            special: whether control tokens show by their names.
            continues: whether the tokens go on from a text before them, so that a first space is
                part of the text.
        """
        self._tokenizer = tokenizer
        self._special = special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._drop_space = tokenizer.drops_first_space and not continues

    def add(self, token: int) -> str:
        """The text that is certain after one more token; often empty within a character."""
        piece = self._tokenizer.token_bytes(token, special=self._special)
        if self._drop_space and piece:
            piece = piece.removeprefix(b" ")
            self._drop_space = False
        return self._decoder.decode(piece)

    def end(self) -> str:
        """What is left when no more tokens come: a replacement character for a cut one."""
        return self._decoder.decode(b"", final=True)


def _any_of(texts: Sequence[str]) -> re.Pattern[str] | None:
    """A pattern whose `split` keeps what it finds, longest first; None for no texts."""
    if not texts:
        return None
    ordered = sorted(texts, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, ordered))})")


def _byte_letters() -> list[str]:
    """The letter that byte-level BPE writes each byte as."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    letters = []
    spare = 256
    for byte in range(256):
        letters.append(chr(byte) if byte in printable else chr(spare))
        spare += byte not in printable
    return letters


def _letters_to_bytes(text: str, kind: TokenKind, letters: dict[str, int]) -> bytes:
    if kind is TokenKind.NORMAL and all(letter in letters for letter in text):
        return bytes(letters[letter] for letter in text)
    return text.encode()


def _piece_to_bytes(text: str, kind: TokenKind) -> bytes:
    if kind is TokenKind.BYTE and (found := _BYTE_TOKEN.fullmatch(text)):
        return bytes([int(found[1], 16)])
    return text.replace(_SPACE, " ").encode()


def _byte_level(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    rules = _SPLITS.get(vocabulary.split)
    if rules is None:
        raise UnsupportedModelError(
            f"the model splits text by the rule {vocabulary.split!r}; this program knows "
            f"{', '.join(sorted(_SPLITS))}: choose a model with one of these"
        )
    numbers = {text: number for number, text in enumerate(vocabulary.tokens)}
    merges = []
    for merge in vocabulary.merges:
        # A space within a half is written as a letter, so the first one from 1 on separates them.
        left, _, right = merge.partition(" ")
        if left in numbers and right in numbers and left + right in numbers:
            merges.append((left, right))
    built = tokenizers.Tokenizer(
        models.BPE(
            vocab=numbers,
            merges=merges,
            # A word that is a token is taken whole there, whatever the merges say.
            ignore_merges=vocabulary.split in LLAMA3_SPLITS,
        )
    )
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(tokenizers.Regex(rule), "isolated") for rule in rules),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return built


def _sentence_piece(vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """Byte-pair merges that give what SentencePiece's scores give.

    SentencePiece joins the neighbours whose joined piece scores best; so every way to join two
    pieces into a third becomes a merge, ranked by the third one's score.
    """
    numbers = {
        text: number
        for number, text in enumerate(vocabulary.tokens)
        if vocabulary.kinds[number] is not TokenKind.CONTROL
    }
    merges = [
        (-vocabulary.scores[number], number, left, text[len(left) :])
        for text, number in numbers.items()
        if vocabulary.kinds[number] in {TokenKind.NORMAL, TokenKind.USER_DEFINED}
        for left in (text[:cut] for cut in range(1, len(text)))
        if left in numbers and text[len(left) :] in numbers
    ]
    merges.sort()
    unknown = vocabulary.unknown_token
    return tokenizers.Tokenizer(
        models.BPE(
            vocab=numbers,
            merges=[(left, right) for _, _, left, right in merges],
            unk_token=None if unknown is None else vocabulary.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
