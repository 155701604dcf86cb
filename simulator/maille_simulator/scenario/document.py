"""A YAML file with its line numbers, checked against the JSON schema."""

import json
import math
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from maille_simulator.errors import ScenarioError, ScenarioNotFound

Place = tuple[str | int, ...]
"""Keys and positions from the top of the document."""

MAX_FILE_BYTES = 1_000_000


@dataclass(slots=True)
class Document:
    """What stands in a file, and in which line."""

    path: Path
    value: dict[str, Any] = field(default_factory=dict)
    lines: dict[Place, int] = field(default_factory=dict)

    def error(self, place: Place, text: str) -> ScenarioError:
        """An error at a place, or at the nearest one above it that has a line."""
        while place and place not in self.lines:
            place = place[:-1]
        return ScenarioError(self.path, self.lines.get(place, 1), text)


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """The JSON schema of scenarios."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("schema.json").read_text("utf-8"))
    return found


def read_document(path: Path) -> Document:
    """Read and check a file.

    Raises:
        ScenarioError: not YAML, or not as the schema says.
        ScenarioNotFound: it cannot be read.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ScenarioNotFound(f"{path} is larger than a scenario may be: is it one?")
        text = path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise ScenarioNotFound(
            f"{path} cannot be read ({why}): give the path of a scenario's YAML file"
        ) from error
    document = Document(path)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise ScenarioError(path, 1, "the file is empty: it has to hold a scenario")
        _note_lines(document, node, (), set())
        value = loader.construct_document(node)
    except RecursionError as error:
        raise ScenarioError(path, 1, "nested far too deeply for a scenario") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise ScenarioError(
            path, mark.line + 1 if mark is not None else 1, f"not YAML: {problem}"
        ) from error
    if not isinstance(value, dict):
        raise ScenarioError(path, 1, "a scenario is a mapping: name, duration, nodes, load, ...")
    document.value = value
    _check(document)
    return document


def _note_lines(document: Document, node: yaml.Node, place: Place, seen_nodes: set[int]) -> None:
    if id(node) in seen_nodes:
        line = node.start_mark.line + 1
        text = "a scenario has no use for YAML's anchors and aliases: write it out"
        raise ScenarioError(document.path, line, text)
    seen_nodes.add(id(node))
    document.lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ScenarioError(document.path, line, f"{key!r} stands here a second time")
            seen.add(key)
            document.lines[(*place, key)] = key_node.start_mark.line + 1
            _note_lines(document, value_node, (*place, key), seen_nodes)
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            _note_lines(document, item, (*place, position), seen_nodes)


def _refuse_infinite(document: Document, value: Any, place: Place) -> None:
    """YAML knows .inf and .nan, which no schema refuses and no clock can count."""
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_infinite(document, item, (*place, str(key)))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            _refuse_infinite(document, item, (*place, position))
    elif isinstance(value, float) and not math.isfinite(value):
        raise document.error(place, f"{place[-1]} is {value}: write a number that ends")


def _check(document: Document) -> None:
    _refuse_infinite(document, document.value, ())
    validator = jsonschema.Draft202012Validator(schema())
    errors = sorted(
        validator.iter_errors(document.value),
        key=lambda error: document.error(tuple(error.absolute_path), "").line,
    )
    if not errors:
        return
    error = errors[0]
    place = tuple(error.absolute_path)
    raise document.error(_place_of(error, place), _text_of(error, place))


def _place_of(error: Any, place: Place) -> Place:
    if error.validator == "additionalProperties":
        unknown = _unknown_keys(error)
        return (*place, unknown[0]) if unknown else place
    return place


def _unknown_keys(error: Any) -> list[str]:
    known = error.schema.get("properties", {})
    return [str(key) for key in error.instance if key not in known]


def _text_of(error: Any, place: Place) -> str:
    name = str(place[-1]) if place and isinstance(place[-1], str) else "this"
    match error.validator:
        case "additionalProperties":
            [unknown, *_] = _unknown_keys(error)
            known = list(error.schema.get("properties", {}))
            return f"unknown key {unknown!r}: {_hint(unknown, known)}"
        case "enum":
            what = "event" if name == "do" else name
            known = [str(item) for item in error.validator_value]
            return f"unknown {what} {error.instance!r}: {_hint(str(error.instance), known)}"
        case "required":
            missing = [key for key in error.validator_value if key not in error.instance]
            return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing here"
        case "anyOf" if "time" in str(error.schema_path) or _is_time(error):
            return (
                f"{name} is {error.instance!r}, which is no time: write seconds, or 200ms, 1.5s, "
                "2m, 1h; it cannot be negative"
            )
        case _:
            return f"{name}: {error.message}"


def _is_time(error: Any) -> bool:
    return "200ms" in str(error.schema.get("description", ""))


def _hint(word: str, known: list[str]) -> str:
    near = get_close_matches(word, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
