"""Flash and RAM of what runs on boards, and the rules of an Arduino library."""

import json
import re
from pathlib import Path

import pytest
from avr_support import ARDUINO, example, needs_avr

from maille_node.firmware import avr
from maille_node.firmware.header import model_header
from maille_node.firmware.targets import UNO

EXAMPLES = sorted(path.parent.name for path in ARDUINO.glob("examples/*/*.ino"))
CORE = ("link", "framing", "cbor", "node")
CORE_FLASH_LIMIT_BYTES = 8192
CORE_RAM_LIMIT_BYTES = 450
CATEGORIES = {"Communication", "Data Processing"}
FIELDS = {
    *("name", "version", "author", "maintainer", "sentence", "paragraph"),
    *("category", "url", "architectures"),
}


@needs_avr
@pytest.mark.timeout(120)
@pytest.mark.parametrize("target", ["uno", "mega"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_compiles_and_fits(name: str, target: str, tmp_path: Path) -> None:
    built = example(name, target, tmp_path)
    print(f"{name} on {target}\n{built.summary()}")  # noqa: T201
    assert built.hex.stat().st_size > 0


@needs_avr
def test_link_framing_cbor_and_node_core(tmp_path: Path) -> None:
    sketch = ARDUINO / "examples/FirstNode/FirstNode.ino"
    built = avr.build(sketch, UNO, tmp_path, whole_program=False)
    sizes = avr.file_sizes(built)
    flash = sum(sizes[name][0] for name in CORE)
    constants = sum(sizes[name][1] for name in CORE)
    # The sketch's one object holds the node and, beside it, what the shell keeps for itself.
    shell = avr.symbols(built)["Maille"][1]
    node = shell - shell_bytes()
    print(f"core: {flash} bytes of flash, {node + constants} bytes of RAM")  # noqa: T201
    assert flash <= CORE_FLASH_LIMIT_BYTES
    assert node + constants <= CORE_RAM_LIMIT_BYTES


def shell_bytes() -> int:
    """NodeConfig, four models and their count, by the types in Maille.h and node.h."""
    config = 2 + 2 + 4 + 4 + 4 + 2 + 8 + 4
    return config + 4 * (2 + 2 + 2 + 2) + 1


def properties() -> dict[str, str]:
    lines = (ARDUINO / "library.properties").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_library_properties() -> None:
    """What arduino-lint asks of a library for the library manager."""
    fields = properties()
    assert set(fields) >= FIELDS
    assert all(fields[field].strip() for field in FIELDS)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _.\-]{0,62}", fields["name"])
    assert not fields["name"].lower().startswith("arduino")
    assert "  " not in fields["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", fields["version"])
    assert fields["category"] in CATEGORIES
    assert fields["url"].startswith("https://")
    assert fields["architectures"] == "avr"
    assert not fields["paragraph"].startswith(fields["sentence"])
    for field in ("author", "maintainer"):
        assert not fields[field].lower().startswith("arduino")
    for header in fields["includes"].split(","):
        assert (ARDUINO / "src" / header.strip()).is_file()


def test_library_json_says_the_same() -> None:
    manifest = json.loads((ARDUINO / "library.json").read_text(encoding="utf-8"))
    fields = properties()
    assert manifest["name"] == fields["name"]
    assert manifest["version"] == fields["version"]
    assert manifest["platforms"] == "atmelavr"
    assert manifest["frameworks"] == "arduino"
    assert {item["name"] for item in manifest["examples"]} == set(EXAMPLES)
    for item in manifest["examples"]:
        for name in item["files"]:
            assert (ARDUINO / item["base"] / name).is_file()


def test_keywords() -> None:
    source = (ARDUINO / "src/Maille.h").read_text(encoding="utf-8")
    lines = (ARDUINO / "keywords.txt").read_text(encoding="utf-8").splitlines()
    seen = set()
    for line in lines:
        if not line or line.startswith("#"):
            continue
        keyword, kind = line.split("\t")  # one true tab, nothing else
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", keyword)
        assert kind in {"KEYWORD1", "KEYWORD2", "LITERAL1"}
        assert re.search(rf"\b{keyword}\b", source), keyword
        seen.add(keyword)
    public = set(re.findall(r"^  (?:\w[\w:<>]* )+(\w+)\(", source, re.MULTILINE)) - {"start"}
    assert public <= seen


def test_layout() -> None:
    allowed = {"src", "examples", "extras", "library.properties", "library.json"}
    allowed |= {"keywords.txt", "README.md", "LICENSE"}
    assert {path.name for path in ARDUINO.iterdir()} <= allowed
    headers = {path.name for path in (ARDUINO / "src").glob("*.h")}
    assert headers == {"Maille.h"}
    for path in ARDUINO.glob("examples/*"):
        assert (path / f"{path.name}.ino").is_file()
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,62}", path.name)
    for path in ARDUINO.rglob("*"):
        assert not path.is_symlink()
        assert path.suffix not in {".exe", ".o", ".a", ".elf"}
        assert path.name not in {".development", "library.info", "preproc_patterns"}


def test_the_file_of_an_examples_model_is_what_lies_in_its_flash() -> None:
    files = sorted(ARDUINO.glob("examples/*/*.tiny"))
    assert [path.stem for path in files] == ["digits-mlp", "vibration"]
    for path in files:
        header = (path.parent / "model.h").read_text(encoding="utf-8")
        assert header == model_header(path.read_bytes(), "model")


def test_arduino_h_is_seen_by_the_outermost_files_only() -> None:
    for path in (ARDUINO / "src/maille").iterdir():
        assert "Arduino.h" not in path.read_text(encoding="utf-8"), path.name
