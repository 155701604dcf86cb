"""Language models cut into slices: read a GGUF, write runs of its layers for nodes to run.

    model = read_model(Path("model.gguf"))
    written = write_slice(model, 0, 9, folder, with_embedding=True, with_head=False)

`maille_node.language.Stage` runs what is written. `Tokenizer` and `ChatTemplate` come from the same
file. The formats, what makes a cut exact and what
was measured: docs/decisions/0005-language-model-number-formats.md.
"""

from maille_coordinator.slices.chat import ChatTemplate, ChatTemplateError
from maille_coordinator.slices.cut import SliceFile, write_slice
from maille_coordinator.slices.errors import (
    LanguageModelError,
    ModelFileError,
    SliceError,
    UnsupportedModelError,
)
from maille_coordinator.slices.model import LanguageModel, read_model
from maille_coordinator.slices.tokenizer import TextStream, Tokenizer
from maille_coordinator.slices.vocabulary import TokenKind, Vocabulary

__all__ = [
    "ChatTemplate",
    "ChatTemplateError",
    "LanguageModel",
    "LanguageModelError",
    "ModelFileError",
    "SliceError",
    "SliceFile",
    "TextStream",
    "TokenKind",
    "Tokenizer",
    "UnsupportedModelError",
    "Vocabulary",
    "read_model",
    "write_slice",
]
