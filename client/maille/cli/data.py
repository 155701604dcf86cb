"""Files and literals on the command line, read as model inputs; outputs written as files."""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TextIO, TypeVar, cast

import numpy as np

from maille.cli.output import plain
from maille.errors import InputError, MailleError, SettingsError
from maille.values import Inputs, adopt
from maille.views import Answer, Model
from maille_protocol.signature import TensorSpec
from maille_protocol.tensors import Array

Read = TypeVar("Read")
_NAMED = re.compile(r"([^=\[\]{}\"'\s]+)=(.*)", re.DOTALL)


def read_inputs(texts: Sequence[str], model: Model, *, cast_types: bool) -> dict[str, object]:
    """The inputs of one run from `--input` texts.

    Each is `name=VALUE`, or only VALUE where the model has one input or the file names its arrays.
    VALUE is a .npy, .npz or .json file, `-` (standard input), or JSON such as `[[1, 2]]`.

    Raises:
        InputError, SettingsError: with the cause and what to write instead.
    """
    named: dict[str, object] = {}
    for text in texts:
        match = _NAMED.fullmatch(text)
        name, value_text = (match[1], match[2]) if match else (None, text)
        value = _read_value(value_text)
        if isinstance(value, Mapping):
            if name is not None:
                raise SettingsError(
                    f"{value_text} names its arrays itself: write --input {value_text}."
                )
            named.update(value)
        elif name is not None:
            named[name] = value
        elif len(model.inputs) == 1:
            named[model.inputs[0].name] = value
        else:
            inputs = ", ".join(str(spec) for spec in model.inputs)
            raise InputError(
                f"Model {model.name!r} takes {len(model.inputs)} inputs: write "
                f"--input NAME=VALUE for each. They are: {inputs}."
            )
    return cast_to_model(named, model) if cast_types else named


def cast_to_model(named: Mapping[str, object], model: Model) -> dict[str, object]:
    """Arrays in the model's types, whatever they were: only when the person asked for it."""
    specs = {spec.name: spec for spec in model.inputs}
    return {
        name: np.asarray(value).astype(specs[name].dtype)
        if name in specs and specs[name].dtype != "str"
        else value
        for name, value in named.items()
    }


def read_rows(
    texts: Sequence[str], model: Model, *, cast_types: bool
) -> "Inputs | Iterator[Inputs]":
    """The inputs of a map: arrays to be cut into rows, or (JSON lines) one task's inputs a line.

    Each text is a file, or `name=file` (.npy or .csv) for one of the model's inputs.

    Raises:
        InputError, SettingsError: with the cause and what to write instead.
    """
    named: dict[str, object] = {}
    for text in texts:
        match = _NAMED.fullmatch(text)
        if match is None:
            if len(texts) > 1:
                raise SettingsError(
                    f"Several inputs need names: write --input NAME={text}. "
                    f"The model takes {', '.join(str(spec) for spec in model.inputs)}."
                )
            return _read_file(Path(text), model, cast_types=cast_types)
        path = Path(match[2])
        if path.suffix.lower() not in {".npy", ".csv"}:
            raise SettingsError(
                f"{path}: an input of its own name is one array: give a .npy or .csv file."
            )
        array = _load_numpy(path) if path.suffix.lower() == ".npy" else _read_csv(path)
        named[match[1]] = array
    return cast_to_model(named, model) if cast_types else named


def _read_file(path: Path, model: Model, *, cast_types: bool) -> "Inputs | Iterator[Inputs]":
    """The inputs in one file.

    A .csv file holds numbers: one row a line, all columns together the one input of the model;
    a first line that is no numbers is taken for a heading.
    """
    match path.suffix.lower():
        case ".npz" | ".npy":
            value = _load_numpy(path)
            if not isinstance(value, Mapping):
                value = {_only(model).name: value}
            return cast_to_model(value, model) if cast_types else value
        case ".csv":
            spec = _only(model)
            array = _read_csv(path)
            return {spec.name: array.astype(spec.dtype) if cast_types else adopt(array, spec)}
        case ".jsonl" | ".ndjson" | "":
            return _json_lines(path, model, cast_types=cast_types)
        case other:
            raise SettingsError(
                f"{path}: files that end in {other} are not read. "
                "Give .npz, .npy, .csv, or .jsonl (also `-` for JSON lines on standard input)."
            )


def _read_value(text: str) -> object:
    if text == "-":
        data = sys.stdin.buffer.read()
        return _parse_bytes(data, "standard input")
    if text[:1] in {"[", "{", '"'} or re.fullmatch(r"-?[\d.]+([eE][-+]?\d+)?|true|false", text):
        return _parse_json(text, "the input")
    path = Path(text)
    match path.suffix.lower():
        case ".npy" | ".npz":
            return _load_numpy(path)
        case ".json":
            return _parse_json(_reading(path, Path.read_text), str(path))
        case _:
            raise SettingsError(
                f"{text!r} is no .npy, .npz or .json file and no JSON. "
                'Write for example --input image.npy or --input "[[1, 2]]".'
            )


def _parse_bytes(data: bytes, where: str) -> object:
    if data.startswith((b"\x93NUMPY", b"PK")):
        return _numpy_from(io.BytesIO(data), where)
    try:
        return _parse_json(data.decode("utf-8"), where)
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is neither NumPy data nor JSON.") from error


def _parse_json(text: str, where: str) -> object:
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from error
    return value


def _load_numpy(path: Path) -> "Array | dict[str, object]":
    return _numpy_from(io.BytesIO(_reading(path, Path.read_bytes)), str(path))


def _numpy_from(file: IO[bytes], where: str) -> "Array | dict[str, object]":
    try:
        # Pickled objects could run anything: they stay off.
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        return {name: loaded[name] for name in loaded.files}
    except Exception as error:
        raise InputError(
            f"{where} is not readable as NumPy data ({error}). Write it with numpy.save or savez."
        ) from error


def _read_csv(path: Path) -> Array:
    rows: list[list[float]] = []
    with io.StringIO(_reading(path, Path.read_text)) as file:
        for number, cells in enumerate(csv.reader(file), start=1):
            if not cells:
                continue
            try:
                rows.append([float(cell) for cell in cells])
            except ValueError as error:
                if number == 1:
                    continue
                raise InputError(
                    f"{path}, line {number}: {error}. Only numbers are read."
                ) from error
            if len(rows[-1]) != len(rows[0]):
                raise InputError(
                    f"{path}, line {number} has {len(rows[-1])} columns, the first has "
                    f"{len(rows[0])}."
                )
    array = np.array(rows)
    whole = array.astype(np.int64)
    return whole if array.size and bool((whole == array).all()) else array


def _json_lines(path: Path, model: Model, *, cast_types: bool) -> Iterator[Inputs]:
    standard = str(path) == "-"
    file: TextIO = sys.stdin if standard else _reading(path, lambda place: place.open("r"))
    try:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            value = _parse_json(line, f"{'standard input' if standard else path}, line {number}")
            if not isinstance(value, Mapping):
                value = {_only(model).name: value}
            named = cast("Mapping[str, object]", value)
            yield cast_to_model(named, model) if cast_types else named
    finally:
        if not standard:
            file.close()


def _reading(path: Path, how: Callable[[Path], Read]) -> Read:
    try:
        return how(path)
    except (OSError, UnicodeDecodeError) as error:
        raise MailleError(
            f"The file {path} cannot be read ({getattr(error, 'strerror', None) or error}). "
            "Check the path."
        ) from error


def _only(model: Model) -> TensorSpec:
    if len(model.inputs) == 1:
        return model.inputs[0]
    inputs = ", ".join(str(spec) for spec in model.inputs)
    raise InputError(
        f"Model {model.name!r} takes {len(model.inputs)} inputs, so the data must name them "
        f"(.npz, or JSON lines with objects). They are: {inputs}."
    )


class Writer:
    """Where a map's answers go: JSON lines as they come, or one NumPy file at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kind = path.suffix.lower()
        if str(path) != "-" and self._kind not in {".jsonl", ".ndjson", ".npz"}:
            raise SettingsError(
                f"{path}: outputs are written as .npz or .jsonl, or to `-` as JSON lines."
            )
        self._parts: dict[str, list[Array]] = {}
        self._file: TextIO | None = None
        if str(path) == "-":
            self._file = sys.stdout
        elif self._kind != ".npz":
            try:
                self._file = path.open("w", encoding="utf-8")
            except OSError as error:
                raise SettingsError(
                    f"{path} cannot be written ({error.strerror}). Choose another file."
                ) from error

    def write(self, index: int, item: Answer | MailleError) -> None:
        """One task's answer or error."""
        if self._file is None:
            if isinstance(item, Answer):
                for name, array in item.outputs.items():
                    self._parts.setdefault(name, []).append(array)
            return
        line: dict[str, object] = {"index": index}
        if isinstance(item, Answer):
            line |= {"node": item.node, "outputs": item.outputs}
        else:
            line["error"] = {"kind": type(item).__name__, "text": str(item)}
        self._file.write(json.dumps(plain(line)) + "\n")

    def close(self, *, complete: bool) -> None:
        """Finish the file; an .npz is written only when every task gave outputs."""
        if self._file is not None:
            self._file.flush()
            if self._file is not sys.stdout:
                self._file.close()
        elif complete:
            save_outputs(self._path, {name: _joined(p) for name, p in self._parts.items()})


def save_outputs(path: Path, outputs: Mapping[str, Array]) -> None:
    """Write outputs as .npz (all), .npy (one) or .json.

    Raises:
        SettingsError: another ending, or not writable.
    """
    try:
        match path.suffix.lower():
            case ".npz":
                arrays: dict[str, Any] = {name: _savable(item) for name, item in outputs.items()}
                with path.open("wb") as file:
                    np.savez(file, **arrays)
            case ".npy" if len(outputs) == 1:
                with path.open("wb") as file:
                    np.save(file, _savable(next(iter(outputs.values()))), allow_pickle=False)
            case ".npy":
                raise SettingsError(
                    f"{path} holds one array and there are {len(outputs)}. Write an .npz instead."
                )
            case ".json":
                path.write_text(json.dumps(plain(outputs)) + "\n", "utf-8")
            case _:
                raise SettingsError(f"{path}: outputs are written as .npz, .npy or .json.")
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be written ({error.strerror}). Choose another file."
        ) from error


def _savable(array: Array) -> Array:
    return array.astype(np.str_) if array.dtype == np.object_ else array


def _joined(parts: Sequence[Array]) -> Array:
    shapes = {part.shape[1:] for part in parts}
    if parts[0].ndim and len(shapes) == 1:
        return np.concatenate([_savable(part) for part in parts])
    if len({part.shape for part in parts}) == 1:
        return np.stack([_savable(part) for part in parts])
    raise MailleError(
        "The outputs have different shapes and do not fit one array. Write .jsonl instead."
    )
