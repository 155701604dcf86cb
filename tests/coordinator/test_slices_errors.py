"""Every bad file, cut and input is refused with its cause and the next step."""

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from tiny_gguf import TinyModel, write_tiny

from maille_coordinator.slices import (
    LanguageModel,
    LanguageModelError,
    ModelFileError,
    SliceError,
    UnsupportedModelError,
    read_model,
    write_slice,
)
from maille_node.language.slice_errors import ActivationRefused, SliceUnusable
from maille_node.language.stage import Stage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_tiny(path, TinyModel(kind=Kind.Q4_0))
    return path


@pytest.fixture
def model(path: Path) -> LanguageModel:
    return read_model(path)


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> Path:
    content = path.read_bytes()
    changed = change(content)
    assert changed != content
    path.write_bytes(changed)
    return path


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"cannot read .*nothing\.gguf.*check the path"):
        read_model(tmp_path / "nothing.gguf")


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04 a zip", b"<html>"])
def test_a_file_that_is_no_gguf_is_named_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"is not a GGUF file.*give the \.gguf file"):
        read_model(path)


def test_a_file_cut_anywhere_is_called_cut_short(path: Path) -> None:
    content = path.read_bytes()
    for size in [4, 8, 23, 24, 100, 1000, 5000, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ModelFileError, match="download it again"):
            read_model(path)


def test_any_flipped_byte_of_the_header_gives_this_packages_errors_only(path: Path) -> None:
    content = path.read_bytes()
    generator = np.random.default_rng(5)
    for at in generator.integers(4, 2500, 60):
        damaged = bytearray(content)
        damaged[at] ^= 1 << generator.integers(8)
        path.write_bytes(bytes(damaged))
        try:
            read_model(path)
        except LanguageModelError as error:
            assert str(error)  # noqa: PT017 - most flips change no meaning, so none is demanded


def test_an_unsupported_architecture_is_named_with_those_that_work(path: Path) -> None:
    rewritten(path, lambda content: content.replace(b"llama", b"gemma"))
    with pytest.raises(UnsupportedModelError, match=r"'gemma'.*llama and qwen2.*choose"):
        read_model(path)


def test_an_unknown_weight_type_is_named_with_those_that_work(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny(path, TinyModel(kinds={"ffn_up.weight": Kind.TQ1_0}))
    with pytest.raises(UnsupportedModelError, match=r"TQ1_0 are not supported.*Q4_K, Q5_0"):
        read_model(path)


def test_a_type_that_even_the_library_does_not_know_is_a_damaged_file(path: Path) -> None:
    entry = struct.pack("<Q", len("output_norm.weight")) + b"output_norm.weight"
    kind_at = len(entry) + 4 + 8

    def change(content: bytes) -> bytes:
        at = content.index(entry) + kind_at
        return content[:at] + struct.pack("<I", 999) + content[at + 4 :]

    rewritten(path, change)
    with pytest.raises(ModelFileError, match="999"):
        read_model(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("blk.0.attn_q_norm.weight", "does not understand"), ("blk.0.ffn_gate_inp.weight", "choose")],
)
def test_a_tensor_that_would_be_left_out_of_the_sum_is_refused(
    tmp_path: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.gguf"
    add = gguf.GGUFWriter.write_header_to_file

    def with_one_more(writer: gguf.GGUFWriter, *args: Path | None) -> None:
        writer.add_tensor(name, np.ones(64, np.float32))
        add(writer, *args)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_one_more)
    write_tiny(path, TinyModel())
    with pytest.raises(UnsupportedModelError, match=message):
        read_model(path)


def test_heads_that_cannot_share_keys_are_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny(path, TinyModel(heads=4, key_value_heads=3))
    with pytest.raises(ModelFileError, match="4 heads cannot share 3 key heads"):
        read_model(path)


@pytest.mark.parametrize(
    ("first", "last", "embedding", "head", "message"),
    [
        (-1, 1, False, False, "has the layers 0 to 1"),
        (0, 2, False, False, "has the layers 0 to 1"),
        (1, 0, False, False, "has the layers 0 to 1"),
        (1, 1, True, False, "starts at layer 0"),
        (0, 0, True, True, "ends at layer 1"),
    ],
)
def test_a_cut_the_model_does_not_have_is_refused(
    model: LanguageModel,
    tmp_path: Path,
    first: int,
    last: int,
    embedding: bool,
    head: bool,
    message: str,
) -> None:
    with pytest.raises(SliceError, match=message):
        write_slice(model, first, last, tmp_path, with_embedding=embedding, with_head=head)
    assert not list(tmp_path.glob("*.part"))


def test_a_directory_that_cannot_be_written_is_named(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SliceError, match=r"cannot write a slice in .*file.*another directory"):
        write_slice(model, 0, 1, tmp_path / "file", with_embedding=True, with_head=True)


def test_a_damaged_slice_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    path = write_slice(model, 0, 1, tmp_path, with_embedding=True, with_head=True).path
    content = path.read_bytes()
    for damaged in (
        b"",
        content[:7],
        content[:4000],
        content[:-1],
        content + b"\0",
        b"\xff" * len(content),
        content.replace(b'\\"version\\":1', b'\\"version\\":7'),
        content[:-200] + bytes(200),
    ):
        path.write_bytes(damaged)
        with pytest.raises(SliceUnusable, match=r"fetch it again|update onnxruntime"):
            Stage.open(path)


def test_a_slice_under_another_name_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    path = write_slice(model, 0, 1, tmp_path, with_embedding=True, with_head=True).path
    with pytest.raises(SliceUnusable, match="stored under its SHA-256"):
        Stage.open(path.rename(tmp_path / "slice"))
    with pytest.raises(SliceUnusable, match="cannot read the slice"):
        Stage.open(path)


def test_hostile_inputs_are_refused_and_leave_the_cache_as_it_was(
    model: LanguageModel, tmp_path: Path
) -> None:
    first = Stage.open(
        write_slice(model, 0, 0, tmp_path, with_embedding=True, with_head=False).path
    )
    second = Stage.open(
        write_slice(model, 1, 1, tmp_path, with_embedding=False, with_head=True).path
    )
    cache = first.new_cache(8)
    good = first.run(cache, np.arange(3))
    for tokens in (
        np.array([], np.int64),
        np.array([-1]),
        np.array([model.vocabulary_size]),
        np.array([[1]]),
        np.array([1], np.int32),
        np.array(1),
        np.array([1.0], np.float32),
        np.arange(6),
    ):
        with pytest.raises(ActivationRefused):
            first.run(cache, tokens)
        assert cache.length == 3
    with pytest.raises(ActivationRefused, match="no head"):
        first.run(cache, np.arange(2), [0])

    other = second.new_cache(8)
    for hidden in (
        good[:, :-1],
        good.astype(np.float64),
        good[0],
        good[:0],
        np.where(good == good[1, 2], np.float32(np.nan), good),
        np.full_like(good, np.inf),
    ):
        with pytest.raises(ActivationRefused):
            second.run(other, hidden, [0])
        assert other.length == 0
    for rows in ([3], [-1]):
        with pytest.raises(ActivationRefused, match="rows of logits"):
            second.run(other, good, rows)
    assert np.isfinite(second.run(other, good, [0, 2])).all()


def test_a_context_longer_than_the_models_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    stage = Stage.open(write_slice(model, 0, 1, tmp_path, with_embedding=True, with_head=True).path)
    with pytest.raises(ActivationRefused, match=r"context of 128 tokens, 129 were asked"):
        stage.new_cache(129)
    full = stage.new_cache(128)
    stage.run(full, np.arange(128), [127])
    with pytest.raises(ActivationRefused, match="129 positions do not fit"):
        stage.run(full, np.arange(1))


def test_handed_over_keys_that_do_not_fit_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    stage = Stage.open(write_slice(model, 0, 1, tmp_path, with_embedding=True, with_head=True).path)
    cache = stage.new_cache(8)
    stage.run(cache, np.arange(5))
    handed = cache.read(0, 5)
    other = stage.new_cache(8)
    for wrong in (
        handed[:1],
        handed[..., :-1],
        handed.astype(np.float16),
        handed[0],
        np.full_like(handed, np.nan),
        np.concatenate([handed, handed], axis=3),
    ):
        with pytest.raises(ActivationRefused):
            other.write(wrong)
        assert other.length == 0
    with pytest.raises(ActivationRefused, match="holds 5 positions"):
        cache.read(2, 6)
    with pytest.raises(ActivationRefused, match="holds 5 positions"):
        cache.truncate(6)
