"""What a GGUF language model is: its shape, its weights' places, its tokens and its template."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gguf import GGMLQuantizationType

from maille_coordinator.slices.errors import UnsupportedModelError
from maille_coordinator.slices.gguf_file import GgufFile, Matrix, open_gguf
from maille_coordinator.slices.quantisation import block_format, dense_rows, supported_type_names
from maille_coordinator.slices.rope import Rope
from maille_coordinator.slices.vocabulary import Vocabulary, read_vocabulary

__all__ = ["LanguageModel", "read_model"]

# Whether GGUF stores Q and K so that rotary pairs are neighbours.
_ARCHITECTURES = {"llama": True, "qwen2": False}

_LAYER_MATRICES = (
    "attn_q.weight",
    "attn_k.weight",
    "attn_v.weight",
    "attn_output.weight",
    "ffn_gate.weight",
    "ffn_up.weight",
    "ffn_down.weight",
)
_LAYER_VECTORS = ("attn_norm.weight", "ffn_norm.weight")
_LAYER_BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias")
_MODEL_TENSORS = frozenset(
    {"token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight"}
)
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A GGUF model that can be cut into slices. Weights stay in the file until they are written.

    Attributes:
        path: the file.
        name: what the file calls itself.
        architecture: `llama` or `qwen2`.
        layer_count: transformer blocks.
        hidden_size: values of one activation.
        feed_forward_size: inner width of the feed-forward part.
        head_count: query heads.
        key_value_head_count: key and value heads; divides `head_count`.
        head_size: values of one head.
        norm_epsilon: of the root-mean-square norms.
        context_length: positions the model was trained for.
        rope: rotary embedding.
        vocabulary: tokens and how text is cut into them.
        chat_template: Jinja template of a conversation, None where the file has none.
        tensors: all tensors by their GGUF name.
    """

    path: Path
    name: str
    architecture: str
    layer_count: int
    hidden_size: int
    feed_forward_size: int
    head_count: int
    key_value_head_count: int
    head_size: int
    norm_epsilon: float
    context_length: int
    rope: Rope
    vocabulary: Vocabulary
    chat_template: str | None
    tensors: Mapping[str, Matrix]

    @property
    def vocabulary_size(self) -> int:
        """Rows of the embedding and of the head."""
        return self.tensors["token_embd.weight"].rows

    @property
    def bos_token(self) -> int | None:
        """The token a text starts with, if the model has one."""
        return self.vocabulary.bos_token

    @property
    def eos_tokens(self) -> frozenset[int]:
        """Tokens that end a generation."""
        return self.vocabulary.eos_tokens

    @property
    def tied(self) -> bool:
        """Whether the head reuses the embedding's weights."""
        return "output.weight" not in self.tensors

    @property
    def head(self) -> Matrix:
        """The weights that turn the last hidden values into logits."""
        return self.tensors["token_embd.weight" if self.tied else "output.weight"]

    @property
    def layer_bytes(self) -> tuple[int, ...]:
        """Bytes of each layer in a slice."""
        return tuple(
            sum(matrix.slice_bytes(filled=True) for matrix in self.layer(index).values())
            for index in range(self.layer_count)
        )

    @property
    def embedding_bytes(self) -> int:
        """Bytes of the embedding in a slice."""
        embedding = self.tensors["token_embd.weight"]
        if embedding.kind is GGMLQuantizationType.F16:
            return embedding.stored_bytes
        return embedding.slice_bytes(filled=False)

    @property
    def head_bytes(self) -> int:
        """Bytes of the head in a slice that has no embedding to share them with."""
        norm = self.tensors["output_norm.weight"]
        return self.head.slice_bytes(filled=False) + norm.slice_bytes(filled=False)

    def key_value_bytes(self, positions: int, layers: int = 1) -> int:
        """Bytes of the key and value cache of `layers` layers for so many positions."""
        values = 2 * self.key_value_head_count * self.head_size
        return layers * positions * values * _FLOAT_BYTES

    def layer(self, index: int) -> dict[str, Matrix]:
        """One layer's tensors by their name within the layer, such as `attn_q.weight`."""
        prefix = f"blk.{index}."
        names = (*_LAYER_MATRICES, *_LAYER_VECTORS, *_LAYER_BIASES)
        return {
            name: self.tensors[prefix + name] for name in names if prefix + name in self.tensors
        }


def read_model(path: Path) -> LanguageModel:
    """Read a GGUF model's shape and check that every part of it is understood.

    Raises:
        ModelFileError: the file is missing, damaged, cut short or no GGUF.
        UnsupportedModelError: its architecture, a tensor, a weight type, its rotary scaling or its
            tokeniser is not supported; the message says which and what is.
    """
    source = open_gguf(path)
    architecture = source.text("general.architecture")
    interleaved = _ARCHITECTURES.get(architecture)
    if interleaved is None:
        raise UnsupportedModelError(
            f"{path.name} has the architecture {architecture!r}; this program runs "
            f"{' and '.join(_ARCHITECTURES)}: choose a model of one of these"
        )
    if source.whole(f"{architecture}.expert_count", 0):
        raise UnsupportedModelError(
            f"{path.name} is a mixture of experts, which is not supported; choose a dense model"
        )
    layer_count = source.whole(f"{architecture}.block_count")
    hidden_size = source.whole(f"{architecture}.embedding_length")
    head_count = source.whole(f"{architecture}.attention.head_count")
    if not layer_count or not hidden_size or not head_count:
        raise source.fault("it has no layers, no heads or no width")
    head_size = source.whole(f"{architecture}.attention.key_length", hidden_size // head_count)
    context_length = source.whole(f"{architecture}.context_length")
    window = source.whole(f"{architecture}.attention.sliding_window", 0)
    model = LanguageModel(
        path=path,
        name=source.text("general.name", path.stem),
        architecture=architecture,
        layer_count=layer_count,
        hidden_size=hidden_size,
        feed_forward_size=source.whole(f"{architecture}.feed_forward_length"),
        head_count=head_count,
        key_value_head_count=source.whole(f"{architecture}.attention.head_count_kv", head_count),
        head_size=head_size,
        norm_epsilon=source.number(f"{architecture}.attention.layer_norm_rms_epsilon"),
        # Up to its sliding window a model attends to everything, as the slices do.
        context_length=min(context_length, window) if window else context_length,
        rope=_read_rope(source, architecture, head_size, interleaved=interleaved),
        vocabulary=read_vocabulary(source),
        chat_template=_optional_text(source, "tokenizer.chat_template"),
        tensors=source.tensors,
    )
    _check_tensors(source, model)
    return model


def _optional_text(source: GgufFile, key: str) -> str | None:
    return source.text(key) if key in source.fields else None


def _read_rope(source: GgufFile, architecture: str, head_size: int, *, interleaved: bool) -> Rope:
    scaling = source.text(f"{architecture}.rope.scaling.type", "none")
    if scaling not in {"none", "linear"}:
        raise UnsupportedModelError(
            f"{source.path.name} scales its positions by {scaling!r}; only linear scaling and "
            "that of Llama 3 are supported: choose a file without it"
        )
    linear = source.number(f"{architecture}.rope.scaling.factor", 1.0)
    dimension = source.whole(f"{architecture}.rope.dimension_count", head_size)
    base = source.number(f"{architecture}.rope.freq_base", 10000.0)
    if not 0 < dimension <= head_size or dimension % 2 or base <= 0 or linear <= 0:
        raise source.fault(f"its rotary embedding of {dimension} values, base {base}, is wrong")
    factors = source.tensors.get("rope_freqs.weight")
    return Rope.of(
        interleaved=interleaved,
        dimension=dimension,
        base=base,
        linear_factor=linear if scaling == "linear" else 1.0,
        factors=None if factors is None else dense_rows(factors.kind, factors.data)[0],
    )


def _check_tensors(source: GgufFile, model: LanguageModel) -> None:
    """Every tensor is known, has the shape that the hyperparameters say and a usable type."""
    attention, key_value = (
        count * model.head_size for count in (model.head_count, model.key_value_head_count)
    )
    hidden, inner = model.hidden_size, model.feed_forward_size
    if model.key_value_head_count == 0 or model.head_count % model.key_value_head_count:
        raise source.fault(
            f"{model.head_count} heads cannot share {model.key_value_head_count} key heads"
        )
    shapes = {
        "token_embd.weight": (len(model.vocabulary.tokens), hidden),
        "output_norm.weight": (1, hidden),
    }
    if not model.tied:
        shapes["output.weight"] = (len(model.vocabulary.tokens), hidden)
    of_a_layer = {
        "attn_q.weight": (attention, hidden),
        "attn_k.weight": (key_value, hidden),
        "attn_v.weight": (key_value, hidden),
        "attn_output.weight": (hidden, attention),
        "ffn_gate.weight": (inner, hidden),
        "ffn_up.weight": (inner, hidden),
        "ffn_down.weight": (hidden, inner),
        "attn_norm.weight": (1, hidden),
        "ffn_norm.weight": (1, hidden),
        "attn_q.bias": (1, attention),
        "attn_k.bias": (1, key_value),
        "attn_v.bias": (1, key_value),
    }
    for index in range(model.layer_count):
        for name, shape in of_a_layer.items():
            full = f"blk.{index}.{name}"
            if name not in _LAYER_BIASES or full in source.tensors:
                shapes[full] = shape
    for name, shape in shapes.items():
        matrix = source.matrix(name)
        if (matrix.rows, matrix.columns) != shape:
            raise source.fault(
                f"the tensor {name} is {matrix.rows} x {matrix.columns}, not {shape[0]} x {shape[1]}"
            )
        if not matrix.dense:
            block_format(matrix.kind)
    unknown = sorted(source.tensors.keys() - shapes.keys() - _MODEL_TENSORS)
    if unknown:
        raise UnsupportedModelError(
            f"{source.path.name} has tensors that this program does not understand "
            f"({', '.join(unknown[:3])}{'…' if len(unknown) > 3 else ''}); choose another model"
        )
    vectors = [name for name, shape in shapes.items() if shape[0] == 1]
    for name in vectors:
        if not source.matrix(name).dense:
            raise UnsupportedModelError(
                f"{source.path.name} stores {name} as {source.matrix(name).kind.name}; norms and "
                f"biases must be floats (all weight types: {supported_type_names()})"
            )
