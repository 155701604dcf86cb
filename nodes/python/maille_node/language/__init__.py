"""Choosing tokens at the last stage.

settings = SamplingSettings(temperature=0.7, top_p=0.9, seed=1)
chosen = sample(logits, settings, position, tokens, prompt_length)
"""

from maille_node.language.errors import (
    ConstraintError,
    LogitsNotFinite,
    NothingAllowed,
    SamplingError,
    SettingsOutOfRange,
)
from maille_node.language.json_mode import JsonConstraint, JsonVocabulary, json_mode_available
from maille_node.language.randomness import random_64, spread_seed
from maille_node.language.sampling import Sampled, TokenProbability, sample
from maille_node.language.settings import SamplingSettings

__all__ = [
    "ConstraintError",
    "JsonConstraint",
    "JsonVocabulary",
    "LogitsNotFinite",
    "NothingAllowed",
    "Sampled",
    "SamplingError",
    "SamplingSettings",
    "SettingsOutOfRange",
    "TokenProbability",
    "json_mode_available",
    "random_64",
    "sample",
    "spread_seed",
]
