"""Slices compute what the model says, and the same bits however it is cut and fed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from cut_models import cut
from gguf import GGMLQuantizationType as Kind
from tiny_gguf import TinyModel, reference_logits, write_tiny

from maille_coordinator.slices import (
    LanguageModel,
    read_model,
    write_slice,
)
from maille_node.language.probe import probe_kernels
from maille_node.language.stage import KeyValueCache, Stage

# A model of 135 million parameters is read, cut and run here.
pytestmark = pytest.mark.timeout(180)

TOKENS = list(range(5, 45))
FLOATS = [Kind.F32, Kind.F16, Kind.BF16]
QUANTISED = [Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]
VARIANTS = {
    "qwen2": TinyModel(architecture="qwen2", biases=True),
    "llama3-scaling": TinyModel(rope_factors=True, base=500000.0),
    "linear-scaling": TinyModel(linear_factor=4.0),
    "untied": TinyModel(tied=False),
    "untied-half": TinyModel(tied=False, kind=Kind.F16),
    "one-key-head": TinyModel(key_value_heads=1),
    "all-key-heads": TinyModel(key_value_heads=4),
    "one-layer": TinyModel(layers=1),
}
MIXED = {
    "q4-k-m": TinyModel(
        kind=Kind.Q4_K,
        kinds={"attn_v.weight": Kind.Q6_K, "ffn_down.weight": Kind.Q6_K, "embd.weight": Kind.Q6_K},
    ),
    "q4-k-m-qwen2": TinyModel(
        architecture="qwen2",
        biases=True,
        kind=Kind.Q4_K,
        kinds={"attn_v.weight": Kind.Q6_K, "ffn_up.weight": Kind.Q8_0},
    ),
    "half-embedding": TinyModel(kind=Kind.Q4_1, kinds={"embd.weight": Kind.F16}),
}


def model_of(tiny: TinyModel, folder: Path) -> tuple[LanguageModel, Path]:
    path = folder / "tiny.gguf"
    write_tiny(path, tiny)
    return read_model(path), path


def caches_of(stages: list[Stage], capacity: int) -> list[KeyValueCache]:
    return [stage.new_cache(capacity) for stage in stages]


def through(
    stages: list[Stage], caches: list[KeyValueCache], tokens: list[int]
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Logits after each of the tokens, given to the stages in one step."""
    values: np.ndarray = np.array(tokens, np.int64)
    for stage, cache in zip(stages, caches, strict=True):
        values = stage.run(cache, values, range(len(tokens)) if stage.info.with_head else ())
    return values


@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: kind.name)
def test_float_weights_give_the_reference_logits(kind: Kind, tmp_path: Path) -> None:
    tiny = TinyModel(kind=kind)
    model, path = model_of(tiny, tmp_path)
    stages = cut(model, tmp_path, 1)

    logits = through(stages, caches_of(stages, 64), TOKENS)

    np.testing.assert_allclose(logits, reference_logits(path, tiny, TOKENS), rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_gives_the_reference_logits(name: str, tmp_path: Path) -> None:
    tiny = VARIANTS[name]
    model, path = model_of(tiny, tmp_path)
    stages = cut(model, tmp_path, 1)

    logits = through(stages, caches_of(stages, 64), TOKENS)

    np.testing.assert_allclose(logits, reference_logits(path, tiny, TOKENS), rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    "tiny",
    [*(TinyModel(kind=kind) for kind in QUANTISED), *MIXED.values()],
    ids=[*(kind.name for kind in QUANTISED), *MIXED],
)
def test_quantised_weights_give_the_reference_logits_but_for_the_rounding_of_inputs(
    tiny: TinyModel, tmp_path: Path
) -> None:
    model, path = model_of(tiny, tmp_path)
    stages = cut(model, tmp_path, 1)

    logits = through(stages, caches_of(stages, 64), TOKENS)

    # The kernels round their inputs to 8 bits, as llama.cpp's do; weights are exact.
    reference = reference_logits(path, tiny, TOKENS)
    assert np.corrcoef(logits.ravel(), reference.ravel())[0, 1] > 0.9995
    assert np.abs(logits - reference).max() < 0.05 * np.abs(reference).max()


@pytest.mark.parametrize(
    "tiny",
    [
        TinyModel(layers=5, kind=Kind.F32),
        TinyModel(layers=5, kind=Kind.Q4_1),
        TinyModel(layers=5, kind=Kind.Q8_0, architecture="qwen2", biases=True),
        TinyModel(layers=5, kind=Kind.Q4_K, kinds={"attn_v.weight": Kind.Q6_K}, tied=False),
    ],
    ids=["llama-F32", "llama-Q4_1", "qwen2-Q8_0", "untied-Q4_K"],
)
def test_bits_do_not_depend_on_the_cut_the_steps_the_room_or_the_threads(
    tiny: TinyModel, tmp_path: Path
) -> None:
    model, _ = model_of(tiny, tmp_path)
    whole = cut(model, tmp_path, 1)
    expected = through(whole, caches_of(whole, 64), TOKENS)

    for count in (1, 2, 3, 5):
        stages = cut(model, tmp_path, count)
        for step in (1, 2, 7, 16):
            caches = caches_of(stages, 40 + count * step)
            pieces = [
                through(stages, caches, TOKENS[at : at + step])
                for at in range(0, len(TOKENS), step)
            ]
            np.testing.assert_array_equal(np.concatenate(pieces), expected)

    path = write_slice(model, 0, 4, tmp_path, with_embedding=True, with_head=True).path
    threaded = [Stage.open(path, threads=2)]
    np.testing.assert_array_equal(through(threaded, caches_of(threaded, 64), TOKENS), expected)


def test_a_cache_goes_on_from_a_shared_prefix_and_from_another_stage(tmp_path: Path) -> None:
    model, _ = model_of(TinyModel(kind=Kind.Q4_1), tmp_path)
    stages = cut(model, tmp_path, 1)
    expected = through(stages, caches_of(stages, 64), TOKENS)
    caches = caches_of(stages, 64)
    through(stages, caches, [*TOKENS[:20], *range(60, 70)])

    caches[0].truncate(20)
    np.testing.assert_array_equal(through(stages, caches, TOKENS[20:]), expected[20:])

    twin = Stage.open(next(tmp_path.glob("[0-9a-f]" * 64)))
    handed = twin.new_cache(50)
    for start, stop in ((0, 7), (7, 30)):
        handed.write(caches[0].read(start, stop))
    np.testing.assert_array_equal(through([twin], [handed], TOKENS[30:]), expected[30:])


def test_sessions_in_one_stage_do_not_see_each_other(tmp_path: Path) -> None:
    model, _ = model_of(TinyModel(kind=Kind.Q8_0), tmp_path)
    stages = cut(model, tmp_path, 1)
    first, second = caches_of(stages, 64), caches_of(stages, 64)
    alone = through(stages, caches_of(stages, 64), TOKENS)

    for at, token in enumerate(TOKENS):
        np.testing.assert_array_equal(through(stages, first, [token])[0], alone[at])
        through(stages, second, [(token * 7) % 300])


def test_a_step_too_large_for_its_scores_goes_in_pieces_of_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = model_of(TinyModel(layers=5, kind=Kind.Q4_1), tmp_path)
    stages = cut(model, tmp_path, 2)
    expected = through(stages, caches_of(stages, 64), TOKENS)
    rows = [39, 3, 12, 0, 13]
    (whole,) = cut(model, tmp_path, 1)
    steps: list[int] = []
    run = Stage._run

    def counted(stage: Stage, cache: KeyValueCache, values: np.ndarray, rows: list[int]) -> object:
        steps.append(len(values))
        return run(stage, cache, values, rows)

    monkeypatch.setattr(Stage, "_run", counted)
    monkeypatch.setattr("maille_node.language.stage._MOST_SCORES", 13 * len(TOKENS))
    np.testing.assert_array_equal(through(stages, caches_of(stages, 64), TOKENS), expected)
    cache = whole.new_cache(64)
    some = whole.run(cache, np.array(TOKENS, np.int64), rows)

    np.testing.assert_array_equal(some, expected[rows])
    assert cache.length == len(TOKENS)
    assert steps == 3 * [13, 13, 13, 1]


def test_the_head_is_left_out_where_no_logits_are_wanted(tmp_path: Path) -> None:
    model, _ = model_of(TinyModel(kind=Kind.Q4_0), tmp_path)
    (stage,) = cut(model, tmp_path, 1)
    cache = stage.new_cache(64)

    nothing = stage.run(cache, np.array(TOKENS[:30]))
    last = stage.run(cache, np.array(TOKENS[30:]), [9])

    assert nothing.shape == (0, model.vocabulary_size)
    whole = stage.run(stage.new_cache(64), np.array(TOKENS), [len(TOKENS) - 1])
    np.testing.assert_array_equal(last, whole)


def test_a_slice_is_named_by_its_bytes_and_made_the_same_again(tmp_path: Path) -> None:
    model, _ = model_of(TinyModel(layers=3, kind=Kind.Q4_1), tmp_path)

    first = write_slice(model, 1, 2, tmp_path / "a", with_embedding=False, with_head=True)
    again = write_slice(model, 1, 2, tmp_path / "b", with_embedding=False, with_head=True)
    other = write_slice(model, 1, 1, tmp_path / "b", with_embedding=False, with_head=False)

    content = first.path.read_bytes()
    assert first.path.name == first.sha256.hex() == hashlib.sha256(content).hexdigest()
    assert content == again.path.read_bytes()
    assert first.size_bytes == len(content)
    assert other.sha256 != first.sha256
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == sorted(
        [again.path.name, other.path.name]
    )


def test_a_slice_has_the_size_that_a_planner_is_told(tmp_path: Path) -> None:
    for kind in (Kind.F32, Kind.Q4_1, Kind.Q6_K):
        model, _ = model_of(TinyModel(layers=3, kind=kind, inner=512), tmp_path)
        written = write_slice(model, 1, 2, tmp_path, with_embedding=False, with_head=True)

        told = sum(model.layer_bytes[1:]) + model.head_bytes
        assert told < written.size_bytes < told * 1.01 + 16384


def test_kernels_are_known_by_their_bits(tmp_path: Path) -> None:
    model, _ = model_of(TinyModel(kind=Kind.Q4_1), tmp_path)
    first, second = cut(model, tmp_path, 2)
    (path,) = {
        write_slice(model, 0, 0, tmp_path, with_embedding=True, with_head=False).path
        for _ in range(2)
    }

    probed = probe_kernels(first)

    assert probed == probe_kernels(Stage.open(path, threads=2))
    assert probed.fingerprint != probe_kernels(second).fingerprint
    assert probed.steps_agree
    assert probe_kernels(second).steps_agree
