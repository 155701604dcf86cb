"""Text to tokens and back for every kind of tokeniser, on vocabularies small enough to read."""

from pathlib import Path

import gguf
import pytest
from tiny_gguf import byte_alphabet

from maille_coordinator.slices import (
    ModelFileError,
    TextStream,
    Tokenizer,
    TokenKind,
    UnsupportedModelError,
    Vocabulary,
)
from maille_coordinator.slices.gguf_file import open_gguf
from maille_coordinator.slices.vocabulary import read_vocabulary

SPACE = "\u0120"  # how byte-level BPE writes a space
WORD = "\u2581"  # how SentencePiece does


def byte_level(
    split: str, words: list[str], *, special: tuple[str, ...] = ("<|end|>",), add_bos: bool = False
) -> Vocabulary:
    """Bytes, and the words with all the merges that build them letter by letter."""
    tokens = byte_alphabet()
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
    kinds = [TokenKind.NORMAL] * len(tokens) + [TokenKind.CONTROL] * len(special)
    tokens += special
    return Vocabulary(
        method="gpt2",
        split=split,
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        merges=tuple(merges),
        scores=(),
        bos_token=len(tokens) - 1,
        eos_tokens=frozenset({len(tokens) - 1}),
        add_bos=add_bos,
        add_eos=False,
        eos_token=len(tokens) - 1,
        unknown_token=None,
        add_space_prefix=False,
    )


def sentence_piece(pieces: dict[str, float], *, add_space_prefix: bool = True) -> Vocabulary:
    """Unknown, begin, end, the 256 bytes, then the pieces with their scores."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    kinds = [TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.CONTROL]
    kinds += [TokenKind.BYTE] * 256 + [TokenKind.NORMAL] * len(pieces)
    return Vocabulary(
        method="llama",
        split="default",
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        merges=(),
        scores=(*[0.0] * 259, *pieces.values()),
        bos_token=1,
        eos_tokens=frozenset({2}),
        add_bos=True,
        add_eos=False,
        eos_token=2,
        unknown_token=0,
        add_space_prefix=add_space_prefix,
    )


def pieces_of(vocabulary: Vocabulary, text: str, *, special: bool = False) -> list[str]:
    tokens = Tokenizer(vocabulary).encode(text, special=special, add_bos=False)
    return [vocabulary.tokens[token] for token in tokens]


@pytest.mark.parametrize(
    ("split", "number"),
    [
        ("gpt-2", ["1234"]),
        ("default", ["123", "4"]),
        ("smollm", ["1", "2", "3", "4"]),
        ("llama-bpe", ["123", "4"]),
        ("qwen2", ["1", "2", "3", "4"]),
    ],
)
def test_each_rule_splits_numbers_its_own_way(split: str, number: list[str]) -> None:
    assert pieces_of(byte_level(split, ["1234", "234"]), "1234") == number


@pytest.mark.parametrize(
    ("split", "text", "pieces"),
    [
        ("gpt-2", "we'll", ["we", "'ll"]),
        ("gpt-2", "we'LL", ["we", "'", "LL"]),
        ("llama-bpe", "we'LL", ["we", "'LL"]),
        ("qwen2", "a  b", ["a", SPACE, SPACE + "b"]),
        ("gpt-2", "a  b", ["a", SPACE, SPACE + "b"]),
        ("llama-bpe", "(we", ["(we"]),
        ("gpt-2", "(we", ["(", "we"]),
    ],
)
def test_each_rule_splits_words_its_own_way(split: str, text: str, pieces: list[str]) -> None:
    words = ["we", "'ll", "'LL", "LL", SPACE + "b", SPACE + SPACE, "(we"]
    assert pieces_of(byte_level(split, words), text) == pieces


def test_llama_3_takes_a_word_that_is_a_token_whole_whatever_the_merges_say() -> None:
    vocabulary = byte_level("llama-bpe", ["ab"])
    with_word = Vocabulary(
        **{
            **{name: getattr(vocabulary, name) for name in Vocabulary.__slots__},
            "tokens": (*vocabulary.tokens, "xyz"),
            "kinds": (*vocabulary.kinds, TokenKind.NORMAL),
        }
    )
    assert pieces_of(with_word, "xyz") == ["xyz"]


def test_a_users_text_never_becomes_a_control_token_but_a_templates_does() -> None:
    vocabulary = byte_level("smollm", ["hi"], special=("<|im_end|>", "<|im|>"))
    tokenizer = Tokenizer(vocabulary)
    control = vocabulary.tokens.index("<|im_end|>")

    assert control not in tokenizer.encode("hi<|im_end|>")
    assert tokenizer.decode(tokenizer.encode("hi<|im_end|>")) == "hi<|im_end|>"
    assert tokenizer.encode("hi<|im_end|>", special=True)[-1] == control
    assert tokenizer.decode([control]) == ""
    assert tokenizer.decode([control], special=True) == "<|im_end|>"


def test_the_first_token_is_added_as_the_model_or_the_caller_says() -> None:
    vocabulary = byte_level("gpt-2", ["hi"], add_bos=True)
    tokenizer = Tokenizer(vocabulary)
    bos = vocabulary.bos_token

    assert tokenizer.encode("hi")[0] == bos
    assert bos not in tokenizer.encode("hi", add_bos=False)
    assert Tokenizer(byte_level("gpt-2", ["hi"])).encode("hi", add_bos=True)[0] == bos


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("hello", [WORD + "hello"]),
        ("hello hello", [WORD + "hello", WORD + "hello"]),
        ("hell", [WORD, "hell"]),
        (" hello", [WORD, WORD + "hello"]),
        ("\u00e9", [WORD, "<0xC3>", "<0xA9>"]),
        ("", []),
    ],
)
def test_sentence_piece_joins_what_scores_best(text: str, pieces: list[str]) -> None:
    vocabulary = sentence_piece(
        {
            **dict.fromkeys("helo" + WORD, -10.0),
            "he": -1.0,
            "ll": -2.0,
            "hell": -3.0,
            "hello": -4.0,
            WORD + "hello": -5.0,
        }
    )
    assert pieces_of(vocabulary, text) == pieces
    tokenizer = Tokenizer(vocabulary)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_sentence_piece_prefers_the_better_score_over_the_earlier_pair() -> None:
    vocabulary = sentence_piece(
        {**dict.fromkeys("abc", -10.0), "ab": -5.0, "bc": -1.0}, add_space_prefix=False
    )
    assert pieces_of(vocabulary, "abc") == ["a", "bc"]


@pytest.mark.parametrize("text", ["na\u00efve \U0001f44d\U0001f3fd ok", "\u65e5\u672c\u8a9e"])
def test_a_stream_never_shows_half_a_character(text: str) -> None:
    tokenizer = Tokenizer(byte_level("gpt-2", []))
    tokens = tokenizer.encode(text)
    assert len(tokens) == len(text.encode())

    stream = TextStream(tokenizer)
    shown = [stream.add(token) for token in tokens]

    assert "".join(shown) == text
    assert all("\ufffd" not in piece for piece in shown)
    assert "" in shown


def test_a_stream_that_ends_within_a_character_says_so_once() -> None:
    tokenizer = Tokenizer(byte_level("gpt-2", []))
    stream = TextStream(tokenizer)
    tokens = tokenizer.encode("\U0001f44d")[:2]

    assert [stream.add(token) for token in tokens] == ["", ""]
    assert stream.end() == "\ufffd"
    assert tokenizer.decode([*tokens, *tokenizer.encode("a")]) == "\ufffda"


def test_a_sentence_piece_stream_drops_the_space_that_encoding_added() -> None:
    vocabulary = sentence_piece({**dict.fromkeys("hi" + WORD, -9.0), "hi": -2.0, WORD + "hi": -3.0})
    tokenizer = Tokenizer(vocabulary)
    word = vocabulary.tokens.index(WORD + "hi")

    begun, going_on = TextStream(tokenizer), TextStream(tokenizer, continues=True)

    assert [begun.add(token) for token in (1, word, word)] == ["", "hi", " hi"]
    assert [going_on.add(token) for token in (word, word)] == [" hi", " hi"]


def test_odd_input_is_text_too() -> None:
    tokenizer = Tokenizer(byte_level("smollm", ["hi"]))

    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"
    assert tokenizer.decode([10**9, -1]) == ""


def test_an_unknown_rule_is_named_with_those_that_work() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'viking'.*llama-bpe.*choose"):
        Tokenizer(byte_level("viking", []))


def write_vocabulary(path: Path, method: str, **lists: list[str] | list[int] | list[float]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(method)
    for key, values in lists.items():
        writer.add_array(f"tokenizer.ggml.{key}", values)
    writer.add_eos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_unknown_method_and_lists_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    tokens = ["a", "b", "<|im_end|>"]

    with pytest.raises(UnsupportedModelError, match=r"'bert'.*gpt2"):
        read_vocabulary(open_gguf(write_vocabulary(path, "bert", tokens=tokens)))
    for lists in (
        {},
        {"tokens": tokens},
        {"tokens": tokens, "merges": ["a b"], "token_type": [1, 1]},
        {"tokens": tokens, "merges": ["a b"], "token_type": [1, 1, 77]},
        {"tokens": ["a"], "merges": ["a b"]},
    ):
        with pytest.raises(ModelFileError, match="download it again"):
            read_vocabulary(open_gguf(write_vocabulary(path, "gpt2", **lists)))
    good = write_vocabulary(path, "gpt2", tokens=tokens, merges=["a b"], token_type=[1, 1, 3])
    assert read_vocabulary(open_gguf(good)).eos_tokens == {1, 2}
