"""`maille flash uno`: the firmware is built for real; avrdude is a program that writes down its arguments."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from maille.cli import app
from maille.errors import InputError, SettingsError
from maille.flashing import arduino
from maille.flashing.arduino import ArduinoFirmware, make_firmware, write_arduino
from maille.flashing.errors import BoardFailed
from maille_node.firmware.targets import MEGA, NANO, TARGETS, UNO
from maille_simulator.boards.sample_models import dense_model

REPOSITORY = Path(__file__).parents[2]
VECTORS = json.loads((REPOSITORY / "protocol/vectors/tiny.json").read_text(encoding="utf-8"))
needs_avr = pytest.mark.skipif(shutil.which("avr-gcc") is None, reason="avr-gcc is not installed")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "small.tiny"
    vector = next(item for item in VECTORS["good"] if item["name"] == "dense_by_hand")
    path.write_bytes(bytes.fromhex(vector["hex"]))
    return path


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Nothing is on PATH but these."""
    folder.mkdir(exist_ok=True)
    for name, script in scripts.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def only_avrdude(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    programs(folder, monkeypatch, avrdude=script)


@needs_avr
def test_a_model_is_built_into_the_firmware(tmp_path: Path, tiny: Path) -> None:
    own = make_firmware(UNO, tmp_path / "own")
    other = make_firmware(UNO, tmp_path / "other", model=tiny)
    assert own.made_by == other.made_by == "avr-gcc"
    assert own.flash_bytes is not None
    assert other.flash_bytes is not None
    assert other.flash_bytes < own.flash_bytes - 2000  # the digits are not in it
    assert "left for the stack" in other.summary(UNO)


def test_what_is_no_model_says_so(tmp_path: Path) -> None:
    path = tmp_path / "no.tiny"
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match="maille models convert"):
        make_firmware(UNO, tmp_path / "out", model=path)
    with pytest.raises(InputError, match="cannot be read"):
        make_firmware(UNO, tmp_path / "out", model=tmp_path / "missing.tiny")


@pytest.mark.parametrize("name", TARGETS)
def test_without_a_compiler_the_ready_made_firmware_is_used(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    programs(tmp_path / "bin", monkeypatch)
    ready = make_firmware(TARGETS[name], tmp_path / "out")
    assert ready.made_by == "the release"
    assert ready.hex.read_text(encoding="utf-8").startswith(":10")
    assert "left for the stack" in ready.summary(TARGETS[name])
    with pytest.raises(SettingsError, match="apt install gcc-avr"):
        make_firmware(TARGETS[name], tmp_path / "out", model=tiny)


@needs_avr
@pytest.mark.parametrize("name", ["uno", "mega"])
def test_the_ready_made_firmware_is_that_of_the_sources(tmp_path: Path, name: str) -> None:
    target = TARGETS[name]
    ready = REPOSITORY / "nodes/arduino/extras/firmware" / f"{target.mcu}.hex"
    built = make_firmware(target, tmp_path)
    assert built.hex.read_bytes() == ready.read_bytes(), (
        "run python nodes/arduino/extras/make_firmware.py"
    )
    sizes = json.loads(ready.with_name("sizes.json").read_text(encoding="utf-8"))[target.mcu]
    assert sizes == {"flash_bytes": built.flash_bytes, "ram_bytes": built.ram_bytes}


@needs_avr
def test_a_model_that_leaves_no_room_says_how_much_there_is(tmp_path: Path) -> None:
    model = tmp_path / "large.tiny"
    model.write_bytes(dense_model(400, 100))
    with pytest.raises(BoardFailed, match=r"44,204 bytes, and at most 32,256"):
        make_firmware(UNO, tmp_path / "large", model=model)
    with pytest.raises(BoardFailed, match="at most 32,767"):
        make_firmware(MEGA, tmp_path / "large", model=model)
    # It fits, and the board would crash: its stack would run into its variables.
    model.write_bytes(dense_model(900, 4))
    with pytest.raises(BoardFailed, match="bytes of RAM left for the stack, and needs 500"):
        make_firmware(UNO, tmp_path / "tight", model=model)


def test_what_is_no_sketch_says_so(tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\n", encoding="utf-8")
    for sketch in (script, tmp_path / "missing.ino"):
        with pytest.raises(InputError, match=r"Name an \.ino file"):
            make_firmware(UNO, tmp_path / "out", sketch=sketch)


def test_options_of_other_boards_are_refused(tmp_path: Path) -> None:
    asked = CliRunner().invoke(app, ["flash", "uno", "--port", "COM9", "--wifi", "attic"])
    assert asked.exit_code == 2
    assert "Leave --wifi out" in asked.stderr
    asked = CliRunner().invoke(app, ["flash", "pico", "--model", str(tmp_path / "m.tiny")])
    assert asked.exit_code == 2
    assert "maille deploy" in asked.stderr


def test_avrdude_is_missed_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path / "bin", monkeypatch)
    asked = CliRunner().invoke(app, ["flash", "uno", "--port", "COM9"])
    assert asked.exit_code == 2
    assert asked.stderr.startswith("error: avrdude")
    assert "apt install avrdude" in asked.stderr


def test_avrdude_is_told_what_the_board_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    only_avrdude(tmp_path / "bin", monkeypatch, f'echo "$@" >> {log}')
    write_arduino(ArduinoFirmware(Path("f.hex"), "a test"), UNO, "/dev/ttyACM0")
    question = "-q -p atmega328p -c arduino -P /dev/ttyACM0 -b 115200 -D"
    assert log.read_text().splitlines() == [question, f"{question} -U flash:w:f.hex:i"]


def test_an_old_nano_is_tried_at_its_own_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    script = f'echo "$@" >> {log}\ncase "$*" in *57600*) exit 0;; esac\nexit 1'
    only_avrdude(tmp_path / "bin", monkeypatch, script)
    write_arduino(ArduinoFirmware(Path("f.hex"), "a test"), NANO, "/dev/ttyUSB0")
    assert [line.split(" -b ")[1].split()[0] for line in log.read_text().splitlines()] == [
        "115200",
        "57600",
        "57600",
    ]


def test_a_board_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo 'avrdude: stk500_recv(): programmer is not responding' >&2; exit 1"
    only_avrdude(tmp_path / "bin", monkeypatch, script)
    with pytest.raises(BoardFailed, match=r"not responding.*maille gateway"):
        write_arduino(ArduinoFirmware(Path("f.hex"), "a test"), UNO, "/dev/ttyACM0")
    programs(tmp_path / "empty", monkeypatch)
    with pytest.raises(SettingsError, match="apt install avrdude"):
        write_arduino(ArduinoFirmware(Path("f.hex"), "a test"), UNO, "/dev/ttyACM0")


def test_a_port_on_which_nothing_answers_is_given_up_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arduino, "_ANSWER_TIMEOUT_S", 0.2)
    only_avrdude(tmp_path / "bin", monkeypatch, "exec /bin/sleep 60")
    with pytest.raises(BoardFailed, match=r"nothing answered.*press its reset button"):
        write_arduino(ArduinoFirmware(Path("f.hex"), "a test"), UNO, "/dev/ttyACM0")


def test_the_command(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_avrdude(tmp_path / "bin", monkeypatch, "exit 0")
    done = CliRunner().invoke(app, ["flash", "uno", "--port", "loop://", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["made_by"] == "the release"
    done = CliRunner().invoke(app, ["flash", "esp32", "--model", str(tiny), "--json"])
    assert done.exit_code != 0
    assert "Arduino" in done.output + done.stderr
