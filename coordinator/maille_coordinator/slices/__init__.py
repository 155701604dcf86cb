"""Language models cut into slices: read a GGUF, write runs of its layers, run them exactly.

    model = read_model(Path("model.gguf"))
    written = write_slice(model, 0, 9, folder, with_embedding=True, with_head=False)
    stage = Stage.open(written.path)
    hidden = stage.run(stage.new_cache(2048), tokens)

`Tokenizer` and `ChatTemplate` come from the same file. The formats, what makes a cut exact and what
was measured: docs/decisions/0005-language-model-number-formats.md.
"""

from maille_coordinator.slices.chat import ChatTemplate, ChatTemplateError
from maille_coordinator.slices.cut import SliceFile, write_slice
from maille_coordinator.slices.errors import (
    ActivationError,
    LanguageModelError,
    ModelFileError,
    SliceError,
    UnsupportedModelError,
)
from maille_coordinator.slices.model import LanguageModel, read_model
from maille_coordinator.slices.probe import KernelProbe, probe_kernels
from maille_coordinator.slices.stage import KeyValueCache, SliceInfo, Stage
from maille_coordinator.slices.tokenizer import TextStream, Tokenizer
from maille_coordinator.slices.vocabulary import TokenKind, Vocabulary

__all__ = [
    "ActivationError",
    "ChatTemplate",
    "ChatTemplateError",
    "KernelProbe",
    "KeyValueCache",
    "LanguageModel",
    "LanguageModelError",
    "ModelFileError",
    "SliceError",
    "SliceFile",
    "SliceInfo",
    "Stage",
    "TextStream",
    "TokenKind",
    "Tokenizer",
    "UnsupportedModelError",
    "Vocabulary",
    "probe_kernels",
    "read_model",
    "write_slice",
]
