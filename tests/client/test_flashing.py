"""Boards on a cable: real MicroPython behind a pseudo-terminal, drives that are folders."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from maille.errors import SettingsError
from maille.flashing import firmware
from maille.flashing.boards import BOARDS, board_kind
from maille.flashing.errors import BoardFailed, BoardNotFound, BoardSilent
from maille.flashing.install import install, start_and_wait
from maille.flashing.library import LIBRARY, board_files, compiled, library_folder
from maille.flashing.ports import Port, choose_port
from maille.flashing.replink import BoardRepl, Interpreter
from maille.flashing.settings import (
    SETTINGS_FILE,
    Wifi,
    changed,
    encoded,
    gateway_settings,
    merged,
    new_settings,
    parse_settings,
    shown,
    with_secret,
)
from maille_broker import parse_url
from maille_protocol.serial.frames import BoardFrame, Hello, Kind
from maille_simulator.boards.micropython_serial import MicroPythonOnSerial

NODE = """
import json, time
settings = json.load(open("maille.json"))
print("maille 0.0 node", settings["node"])
open("started", "w").close()
while True:
    time.sleep(0.05)
"""


class Watcher:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.files: list[tuple[str, bool]] = []
        self.lines: list[str] = []

    def file(self, path: str, number: int, count: int, *, written: bool) -> None:
        assert 1 <= number <= count
        self.files.append((path, written))

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def flash_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "board"
    folder.mkdir()
    return folder


@pytest.fixture
def board(flash_folder: Path) -> Iterator[MicroPythonOnSerial]:
    with MicroPythonOnSerial(flash_folder) as running:
        yield running


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    (folder / "maille").mkdir(parents=True)
    (folder / "maille" / "__init__.py").write_text("VERSION = '0.0'\n")
    (folder / "maille" / "node.py").write_text("def run():\n    return 1\n")
    (folder / "boot.py").write_text("")
    (folder / "main.py").write_text(NODE)
    return folder


# --- the link ----------------------------------------------------------------------------------


def test_a_file_is_written_once_and_read_back(board: MicroPythonOnSerial) -> None:
    content = bytes(range(256)) * 5
    with BoardRepl(board.port) as repl:
        assert repl.write("lib/maille/blob.bin", content)
        assert not repl.write("lib/maille/blob.bin", content)
        assert repl.read("lib/maille/blob.bin") == content
        assert repl.write("lib/maille/blob.bin", b"other")
        assert repl.files("lib/maille") == ["blob.bin"]
        assert repl.files("nowhere") == []
        assert repl.read("nothing") is None
    assert (board.folder / "lib/maille/blob.bin").read_bytes() == b"other"


def test_a_program_that_runs_is_stopped_and_started_again(
    flash_folder: Path, board: MicroPythonOnSerial
) -> None:
    with BoardRepl(board.port) as repl:
        repl.write("main.py", b"import time\nprint('main runs')\nwhile True: time.sleep(0.05)\n")
        repl.restart()
        seen: list[str] = []
        seen.extend(repl.follow(stop=lambda: "main runs" in seen))
    # And again, while it runs.
    with BoardRepl(board.port) as repl:
        assert repl.run("print(6 * 7)").strip() == "42"
    assert (flash_folder / "main.py").exists()


def test_what_fails_on_the_board_is_told_by_its_last_line(board: MicroPythonOnSerial) -> None:
    with BoardRepl(board.port) as repl, pytest.raises(BoardFailed, match="ZeroDivisionError"):
        repl.run("1 / 0")


def test_the_interpreter_says_what_it_takes(board: MicroPythonOnSerial) -> None:
    with BoardRepl(board.port) as repl:
        found = repl.about()
    assert found.version >= (1, 25)
    assert found.bytecode == 6
    assert found.architecture in {"x64", "armv7emdp", ""}


def test_a_device_without_micropython_is_silent(flash_folder: Path) -> None:
    with (
        MicroPythonOnSerial(flash_folder, answers=False) as dead,
        pytest.raises(BoardSilent, match="--firmware"),
    ):
        BoardRepl(dead.port, quiet_s=0.2)


def test_a_board_that_talks_to_gateways_only_is_given_up_in_time() -> None:
    master, slave = os.openpty()
    hello = Hello(1, 7, 64, 10, b"abcd", 1).encode()
    frame = BoardFrame(Kind.HELLO, 0, payload=hello).encode()
    ended = threading.Event()

    def talk() -> None:
        while not ended.wait(0.02):
            os.write(master, frame)

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        with pytest.raises(BoardSilent, match="asks for a gateway, as an Arduino does"):
            BoardRepl(os.ttyname(slave), quiet_s=0.3)
    finally:
        ended.set()
        talking.join()
        os.close(slave)
        os.close(master)


def test_a_port_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BoardSilent, match="does not open"):
        BoardRepl(str(tmp_path / "ttyNone"))


# --- library and settings onto a board ---------------------------------------------------------


def _settings(node: str = "pico-1") -> dict[str, object]:
    return new_settings(
        node=node,
        name="window sill",
        mesh="home",
        endpoint=parse_url("mqtt://node:secret@192.168.1.5:1883"),
        wifi=Wifi("attic", "hush"),
    )


def test_a_board_is_installed_updated_and_started(
    board: MicroPythonOnSerial, library: Path
) -> None:
    watcher = Watcher()
    with BoardRepl(board.port) as repl:
        repl.write(f"{LIBRARY}/gone.py", b"an older library had this\n")
        done = install(repl, library, _settings(), watcher)
        assert done.written == 4
        assert sorted(repl.files(LIBRARY)) == ["__init__.mpy", "node.mpy"]
        assert repl.run("from maille.node import run\nprint(run())").strip() == "1"
        again = install(repl, library, None, watcher)
        assert (again.written, again.unchanged) == (0, 4)
        took_s = start_and_wait(repl, (board.folder / "started").exists, watcher, timeout_s=10)
    assert took_s < 10
    assert "maille 0.0 node pico-1" in watcher.lines
    settings = json.loads((board.folder / SETTINGS_FILE).read_text())
    assert settings["wifi"] == {"ssid": "attic", "password": "hush"}
    assert settings["broker"] == "mqtt://192.168.1.5:1883"


def test_a_second_flash_keeps_what_the_board_had(board: MicroPythonOnSerial, library: Path) -> None:
    with BoardRepl(board.port) as repl:
        sensors = {"adc0": {"kind": "adc", "pin": 26}}
        repl.write(SETTINGS_FILE, encoded({**_settings(), "sensors": sensors}))
        install(repl, library, _settings("other"), Watcher())
        found = parse_settings(repl.read(SETTINGS_FILE) or b"")
    assert found["node"] == "other"
    assert found["sensors"] == sensors


def test_a_board_without_settings_is_not_updated(board: MicroPythonOnSerial, library: Path) -> None:
    with BoardRepl(board.port) as repl, pytest.raises(BoardFailed, match="no settings yet"):
        install(repl, library, None, Watcher())


def test_a_board_that_does_not_join_says_its_last_words(
    board: MicroPythonOnSerial, library: Path
) -> None:
    (library / "main.py").write_text("print('no such Wi-Fi: attic')\n")
    with BoardRepl(board.port) as repl:
        install(repl, library, _settings(), Watcher())
        with pytest.raises(BoardFailed, match="no such Wi-Fi: attic"):
            start_and_wait(repl, lambda: False, Watcher(), timeout_s=1)


def test_an_old_interpreter_is_refused(library: Path) -> None:
    with pytest.raises(SettingsError, match=r"runs MicroPython 1\.20\.0; 1\.25"):
        board_files(library, Interpreter((1, 20, 0), 6, "xtensawin", "ESP32"))


def test_another_bytecode_gets_sources(library: Path) -> None:
    files = board_files(library, Interpreter((2, 0, 0), 7, "", "future"))
    assert {file.path for file in files} >= {f"{LIBRARY}/node.py", "boot.py", "main.py"}


def test_a_source_that_does_not_compile_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f(:\n")
    with pytest.raises(SettingsError, match=r"bad\.py does not compile"):
        compiled(bad, "xtensawin")


def test_the_library_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--library"):
        library_folder(tmp_path)


# --- settings ----------------------------------------------------------------------------------


def test_a_broker_on_loopback_is_refused_unless_it_was_named() -> None:
    endpoint = parse_url("mqtt://127.0.0.1:1883")
    with pytest.raises(SettingsError, match="maille up --lan"):
        new_settings(node="a", name="", mesh="home", endpoint=endpoint, wifi=None)
    made = new_settings(
        node="a", name="", mesh="home", endpoint=endpoint, wifi=None, loopback_allowed=True
    )
    assert made["broker"] == "mqtt://127.0.0.1:1883"
    assert "password" not in made


@pytest.mark.parametrize("node", ["", "Pico", "a_b", "-a", "a" * 33])
def test_an_id_that_is_none_is_refused(node: str) -> None:
    with pytest.raises(SettingsError, match="id"):
        _settings(node)


def test_changes_of_settings() -> None:
    made = changed(_settings(), ["mesh=lab", "wifi.ssid=cellar", 'sensors.adc0={"pin": 26}'])
    assert made["mesh"] == "lab"
    assert made["wifi"] == {"ssid": "cellar", "password": "hush"}
    assert made["sensors"] == {"adc0": {"pin": 26}}
    assert "name" not in changed(made, ["name="])
    assert with_secret(made, "wifi.password", "x")["wifi"] == {"ssid": "cellar", "password": "x"}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("mesh", "changes nothing"),
        ("colour=red", "no setting 'colour'"),
        ("wifi.password=x", "--ask wifi.password"),
        ("password=x", "--ask password"),
        ("node=Not An Id", "node is"),
        ("broker=nonsense", "broker"),
        ("mesh.part=x", "single value"),
        ("sensors=5", "sensors must have parts"),
    ],
)
def test_changes_that_are_refused(text: str, cause: str) -> None:
    with pytest.raises(SettingsError, match=cause):
        changed(_settings(), [text])


def test_secrets_are_never_shown() -> None:
    text = json.dumps(shown(_settings()))
    assert "hush" not in text
    assert "secret" not in text
    assert "attic" in text


def test_merged_keeps_the_rest() -> None:
    assert merged({"a": 1, "b": 2}, {"b": 3}) == {"a": 1, "b": 3}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_damaged_settings_are_told(content: bytes) -> None:
    with pytest.raises(SettingsError, match="anew with `maille flash`"):
        parse_settings(content)


# --- ports -------------------------------------------------------------------------------------

CP2102 = Port("/dev/ttyUSB0", "CP2102", 0x10C4, 0xEA60)
PICO = Port("/dev/ttyACM0", "Board in FS mode", 0x2E8A, 0x0005)


def test_the_only_port_that_fits_is_taken() -> None:
    assert choose_port(None, board_kind("rp2040"), [CP2102, PICO]) == PICO.device
    assert choose_port(None, board_kind("esp32"), [CP2102, PICO]) == CP2102.device
    assert choose_port(None, None, [PICO]) == PICO.device


def test_ports_that_do_not_decide() -> None:
    with pytest.raises(BoardNotFound, match="no serial port"):
        choose_port(None, board_kind("esp32"), [])
    with pytest.raises(BoardNotFound, match="There are: /dev/ttyACM0"):
        choose_port(None, board_kind("esp32"), [PICO])
    with pytest.raises(BoardNotFound, match="Several ports"):
        choose_port(None, None, [CP2102, PICO])
    with pytest.raises(BoardNotFound, match="There is no port /dev/ttyNone"):
        choose_port("/dev/ttyNone", None, [PICO])
    assert choose_port("COM3", None, []) == "COM3"


def test_an_unknown_kind_names_those_there_are() -> None:
    with pytest.raises(SettingsError, match="esp32, esp32s3"):
        board_kind("toaster")


# --- firmware ----------------------------------------------------------------------------------


def _uf2(path: Path, family: int = 0xE48BFF56) -> Path:
    block = b"UF2\n\x57\x51\x5d\x9e" + bytes(20) + family.to_bytes(4, "little")
    path.write_bytes(block.ljust(512, b"\0") * 64)
    return path


def test_firmware_of_another_board_is_refused_before_anything_happens(tmp_path: Path) -> None:
    image = tmp_path / "esp.bin"
    image.write_bytes(b"\xe9" + bytes(100))
    firmware.check_firmware(image, BOARDS["esp32"])
    with pytest.raises(SettingsError, match=r"RPI_PICO_W"):
        firmware.check_firmware(image, BOARDS["rp2040"])
    with pytest.raises(SettingsError, match="no firmware for the ESP32"):
        firmware.check_firmware(_uf2(tmp_path / "a.uf2"), BOARDS["esp32"])
    with pytest.raises(SettingsError, match="no firmware for the RP2040"):
        firmware.check_firmware(_uf2(tmp_path / "b.uf2", family=1), BOARDS["rp2040"])
    with pytest.raises(SettingsError, match="cannot be read"):
        firmware.check_firmware(tmp_path / "none.bin", BOARDS["esp32"])


def test_uf2_goes_onto_the_boot_loaders_drive(tmp_path: Path) -> None:
    image = _uf2(tmp_path / "mp.uf2")
    drive = tmp_path / "RPI-RP2"
    mounts = [str(tmp_path / "other")]

    def appear(_: str) -> None:
        drive.mkdir()
        (drive / "INFO_UF2.TXT").write_text("UF2 Bootloader v3.0\nBoard-ID: RPI-RP2\n")
        mounts.append(str(drive))

    found = firmware.wait_for_drive(appear, timeout_s=5, mount_points=lambda: mounts)
    told: list[float] = []
    firmware.copy_uf2(image, found, told.append)
    assert (drive / "mp.uf2").read_bytes() == image.read_bytes()
    assert told[-1] == 1.0


def test_a_drive_that_never_comes(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(BoardNotFound, match="BOOTSEL"):
        firmware.wait_for_drive(said.append, timeout_s=0.1, mount_points=lambda: [str(tmp_path)])
    assert len(said) == 1


def test_what_esptool_says_last_is_told(tmp_path: Path) -> None:
    with pytest.raises(BoardFailed, match="BOOT button"):
        firmware.run_esptool(
            BOARDS["esp32"], str(tmp_path / "ttyNone"), ["chip-id"], lambda _: None
        )


def test_settings_of_a_board_without_a_network() -> None:
    made = gateway_settings(node="pico", name="sill")
    assert made == {"node": "pico", "name": "sill", "serial": "usb"}
    assert changed(made, ["name=attic"])["name"] == "attic"
    assert changed(made, ['serial={"uart": 0}'])["serial"] == {"uart": 0}
    # Neither broker nor Wi-Fi nor a word of serial: the board speaks serial by itself.
    assert changed({"node": "pico"}, ["name=attic"])["name"] == "attic"
    for wrong in ("serial=wifi", 'serial={"tx": 1}'):
        with pytest.raises(SettingsError, match="serial is"):
            changed(made, [wrong])
    with pytest.raises(SettingsError, match="cannot be a node's id"):
        gateway_settings(node="Pico", name="sill")
    # A board that is given a broker does not go on speaking with a gateway; its sensors stay.
    old = {**made, "sensors": {"a": {"kind": "temperature"}}}
    new = merged(old, {"node": "w", "broker": "mqtt://192.0.2.1:1883"})
    assert "serial" not in new
    assert new["sensors"] == old["sensors"]
