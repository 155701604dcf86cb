"""Tiny GGUF models with random weights, and what they compute, worked out in plain float64.

The forward pass here is written from the papers' formulas and shares nothing with the slices; its
weights come from the `gguf` library's own dequantisation.
"""

from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

Floats = npt.NDArray[np.float64]

BYTE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class TinyModel:
    """What to write. Sizes suit every weight type: rows of 256 weights."""

    architecture: str = "llama"
    layers: int = 2
    hidden: int = 256
    inner: int = 256
    heads: int = 4
    key_value_heads: int = 2
    head_size: int = 64
    vocabulary: int = 320
    context: int = 128
    base: float = 10000.0
    epsilon: float = 1e-5
    kinds: dict[str, Kind] = field(default_factory=dict)
    kind: Kind = Kind.F32
    tied: bool = True
    biases: bool = False
    rope_factors: bool = False
    linear_factor: float = 0.0
    seed: int = 1

    def kind_of(self, name: str) -> Kind:
        """Weight type of a matrix, by the longest suffix named in `kinds`."""
        for suffix, kind in self.kinds.items():
            if name.endswith(suffix):
                return kind
        return self.kind


def random_rows(generator: np.random.Generator, kind: Kind, rows: int, columns: int) -> npt.NDArray:  # type: ignore[type-arg]
    """Random weights of about the size that keeps activations near one, stored as `kind`."""
    weights = generator.normal(size=(rows, columns), scale=columns**-0.5).astype(np.float32)
    if kind in {Kind.Q4_K, Kind.Q5_K, Kind.Q6_K}:
        # The library cannot quantise to these: every byte pattern is valid but for the scales.
        block, size = gguf.GGML_QUANT_SIZES[kind]
        stored = generator.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
        step = np.float16(columns**-0.5 / (4 * 127 if kind is Kind.Q6_K else 8 * 31))
        if kind is Kind.Q6_K:
            stored[:, 208:210] = np.array([step / 8]).view(np.uint8)
        else:
            stored[:, 0:2] = np.array([step], np.float16).view(np.uint8)
            stored[:, 2:4] = np.array([step * np.float16(8)], np.float16).view(np.uint8)
        return stored.reshape(rows, -1)
    if kind is Kind.F32:
        return weights
    return gguf.quants.quantize(weights, kind)


def write_tiny(path: Path, tiny: TinyModel) -> None:
    """Write the model as a GGUF file with a byte-level vocabulary."""
    generator = np.random.default_rng(tiny.seed)
    writer = gguf.GGUFWriter(path, tiny.architecture)
    writer.add_name("tiny")
    writer.add_block_count(tiny.layers)
    writer.add_context_length(tiny.context)
    writer.add_embedding_length(tiny.hidden)
    writer.add_feed_forward_length(tiny.inner)
    writer.add_head_count(tiny.heads)
    writer.add_head_count_kv(tiny.key_value_heads)
    writer.add_key_length(tiny.head_size)
    writer.add_rope_dimension_count(tiny.head_size)
    writer.add_rope_freq_base(tiny.base)
    writer.add_layer_norm_rms_eps(tiny.epsilon)
    if tiny.linear_factor:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(tiny.linear_factor)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    alphabet = byte_alphabet()
    extra = [f"<|{number}|>" for number in range(tiny.vocabulary - BYTE_TOKENS)]
    writer.add_token_list(alphabet + extra)
    writer.add_token_types([1] * BYTE_TOKENS + [3] * len(extra))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(BYTE_TOKENS)

    def matrix(name: str, rows: int, columns: int) -> None:
        kind = tiny.kind_of(name)
        data = random_rows(generator, kind, rows, columns)
        writer.add_tensor(name, data, raw_dtype=kind)

    def vector(name: str, size: int, around: float) -> None:
        values = generator.normal(loc=around, scale=0.1, size=size).astype(np.float32)
        writer.add_tensor(name, values)

    matrix("token_embd.weight", tiny.vocabulary, tiny.hidden)
    vector("output_norm.weight", tiny.hidden, 1.0)
    if not tiny.tied:
        matrix("output.weight", tiny.vocabulary, tiny.hidden)
    if tiny.rope_factors:
        factors = np.linspace(1.0, 8.0, tiny.head_size // 2).astype(np.float32)
        writer.add_tensor("rope_freqs.weight", factors)
    attention, key_value = tiny.heads * tiny.head_size, tiny.key_value_heads * tiny.head_size
    for index in range(tiny.layers):
        at = f"blk.{index}."
        vector(at + "attn_norm.weight", tiny.hidden, 1.0)
        matrix(at + "attn_q.weight", attention, tiny.hidden)
        matrix(at + "attn_k.weight", key_value, tiny.hidden)
        matrix(at + "attn_v.weight", key_value, tiny.hidden)
        matrix(at + "attn_output.weight", tiny.hidden, attention)
        vector(at + "ffn_norm.weight", tiny.hidden, 1.0)
        matrix(at + "ffn_gate.weight", tiny.inner, tiny.hidden)
        matrix(at + "ffn_up.weight", tiny.inner, tiny.hidden)
        matrix(at + "ffn_down.weight", tiny.hidden, tiny.inner)
        if tiny.biases:
            vector(at + "attn_q.bias", attention, 0.0)
            vector(at + "attn_k.bias", key_value, 0.0)
            vector(at + "attn_v.bias", key_value, 0.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def byte_alphabet() -> list[str]:
    """The 256 letters that byte-level BPE writes bytes as, by byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def reference_logits(path: Path, tiny: TinyModel, tokens: list[int]) -> Floats:
    """Logits after every token, in float64: `[tokens, vocabulary]`."""
    weights = {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        for tensor in gguf.GGUFReader(path).tensors
    }
    group = tiny.heads // tiny.key_value_heads
    pairs = np.arange(tiny.head_size // 2)
    frequencies = tiny.base ** (-2.0 * pairs / tiny.head_size)
    if tiny.rope_factors:
        frequencies = frequencies / weights["rope_freqs.weight"]
    if tiny.linear_factor:
        frequencies = frequencies / tiny.linear_factor
    angles = np.outer(np.arange(len(tokens)), frequencies)[:, None, :]

    def norm(values: Floats, name: str) -> Floats:
        size = np.sqrt((values**2).mean(axis=-1, keepdims=True) + tiny.epsilon)
        scaled: Floats = values / size * weights[name]
        return scaled

    def turn(heads: Floats) -> Floats:
        interleaved = tiny.architecture == "llama"
        half = tiny.head_size // 2
        first = heads[..., 0::2] if interleaved else heads[..., :half]
        second = heads[..., 1::2] if interleaved else heads[..., half:]
        one = first * np.cos(angles) - second * np.sin(angles)
        two = first * np.sin(angles) + second * np.cos(angles)
        if interleaved:
            return np.stack([one, two], axis=-1).reshape(heads.shape)
        return np.concatenate([one, two], axis=-1)

    def linear(values: Floats, name: str) -> Floats:
        result: Floats = values @ weights[name + ".weight"].T
        return result + weights[name + ".bias"] if name + ".bias" in weights else result

    hidden = weights["token_embd.weight"][tokens]
    future = np.triu(np.ones((len(tokens), len(tokens)), dtype=bool), k=1)
    for index in range(tiny.layers):
        at = f"blk.{index}."
        normed = norm(hidden, at + "attn_norm.weight")
        query, key, value = (
            linear(normed, at + f"attn_{part}").reshape(len(tokens), -1, tiny.head_size)
            for part in "qkv"
        )
        query, key = turn(query), turn(key)
        outputs = []
        for head in range(tiny.heads):
            scores = query[:, head] @ key[:, head // group].T / np.sqrt(tiny.head_size)
            scores[future] = -np.inf
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            outputs.append(scores @ value[:, head // group])
        hidden = hidden + linear(np.concatenate(outputs, axis=-1), at + "attn_output")
        inner = norm(hidden, at + "ffn_norm.weight")
        gate = linear(inner, at + "ffn_gate")
        hidden = hidden + linear(
            gate / (1 + np.exp(-gate)) * linear(inner, at + "ffn_up"), at + "ffn_down"
        )
    last = "token_embd" if tiny.tied else "output"
    return linear(norm(hidden, "output_norm.weight"), last)
