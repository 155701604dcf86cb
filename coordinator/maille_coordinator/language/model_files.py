"""A language model's file as the coordinator keeps it open: shape, tokeniser, chat template."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from maille_coordinator.placement import ModelShape
from maille_coordinator.records import ModelRecord
from maille_coordinator.slices import (
    ChatTemplate,
    LanguageModel,
    Tokenizer,
    UnsupportedModelError,
    read_model,
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One model, ready to be asked."""

    record: ModelRecord
    model: LanguageModel
    tokenizer: Tokenizer
    template: ChatTemplate | None
    no_template: str
    """Why there is none."""
    shape: ModelShape
    quantisation: str
    parameters: int

    @property
    def key(self) -> tuple[str, int]:
        """Name and version."""
        return self.record.name, self.record.version

    @property
    def check_tokens(self) -> tuple[int, ...]:
        """A prompt for the first round of a ring."""
        return (self.model.bos_token or 0,)


def load_model(record: ModelRecord, path: Path) -> LoadedModel:
    """Read a model's file; takes a second or so, weights are not read.

    Raises:
        LanguageModelError: the file is damaged, or of a kind that is not supported.
    """
    model = read_model(path)
    tokenizer = Tokenizer(model.vocabulary)
    template, why = None, ""
    try:
        template = ChatTemplate(model)
    except UnsupportedModelError as error:
        why = str(error)
    return LoadedModel(
        record,
        model,
        tokenizer,
        template,
        why,
        shape_of(model),
        quantisation_of(model),
        sum(matrix.rows * matrix.columns for matrix in model.tensors.values()),
    )


def shape_of(model: LanguageModel) -> ModelShape:
    """The sizes that placement asks for."""
    embedding, head = model.embedding_bytes, model.head_bytes
    return ModelShape(
        layers=model.layer_bytes,
        embedding_bytes=embedding,
        head_bytes=head,
        kv_bytes_per_token=model.key_value_bytes(1),
        hidden_size=model.hidden_size,
        shared_bytes=min(embedding, head) if model.tied else 0,
    )


def quantisation_of(model: LanguageModel) -> str:
    """How most of the weights are stored, such as "Q4_0"."""
    counts: Counter[str] = Counter()
    for matrix in model.tensors.values():
        counts[matrix.kind.name] += matrix.rows * matrix.columns
    return counts.most_common(1)[0][0]
