"""Settings: flags before MAILLE_* before the file; errors that name the line."""

import json
from pathlib import Path

import pytest
import typer.main
from standin import StandIn
from typer.testing import CliRunner

from maille.cli import app
from maille.cli.config import read_config
from maille.errors import SettingsError

ROOT = typer.main.get_command(app)
RUNNER = CliRunner()


def write(path: Path, text: str) -> Path:
    file = path / "config.toml"
    file.write_text(text, "utf-8")
    file.chmod(0o600)
    return file


def test_settings_at_the_top_reach_every_command_and_tables_one(tmp_path: Path) -> None:
    config = read_config(
        write(
            tmp_path,
            'url = "http://a:1"\nmesh = "home"\n'
            "[up]\nhttp-port = 8000\nlan = true\n"
            '[node]\nid = "kitchen"\n'
            '[models]\nmesh = "other"\n[models.list]\njson = true\n',
        ),
        ROOT,  # type: ignore[arg-type]
    )
    defaults = config.defaults
    assert defaults["up"] == {"http_port": 8000, "lan": True, "mesh": "home"}
    assert defaults["nodes"] == {"url": "http://a:1", "mesh": "home"}
    node = defaults["node"]
    assert isinstance(node, dict)
    assert node["identity"] == "kitchen"
    assert node["drain"] == {"url": "http://a:1", "mesh": "home"}
    models = defaults["models"]
    assert isinstance(models, dict)
    assert models["list"] == {"url": "http://a:1", "mesh": "other", "as_json": True}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('url = "a"\nmesh = \n', "line 2"),
        ('url = "a"\n\nurll = "b"\n', r"line 3: 'urll' is no setting of the top of the file"),
        ("[up]\nhttp_port = 1\nspeed = 3\n", r"line 3: 'speed' is no setting of \[up\].*http-port"),
        ("[upp]\nlan = true\n", r"line 1: 'upp' is no setting"),
        ('[node]\nkey = "abc"\n', "line 2: key stands at the top"),
        ("key = 3\n", "line 1: key must be a text"),
        ('key = "short"\n', "at least 16"),
    ],
)
def test_a_wrong_file_is_refused_with_the_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read_config(write(tmp_path, text), ROOT)  # type: ignore[arg-type]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, 'key = "correct-horse-battery"\n')
    config = read_config(file, ROOT)  # type: ignore[arg-type]
    assert config.key == "correct-horse-battery"
    assert "correct" not in repr(config)
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_config(file, ROOT)  # type: ignore[arg-type]


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["--config", str(tmp_path / "none.toml"), "nodes"])
    assert result.exit_code == 2
    assert "cannot be read" in result.stderr
    assert "MAILLE_CONFIG" in result.stderr


@pytest.mark.broker
def test_flags_win_over_the_environment_and_that_over_the_file(
    mesh_under_test: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    nobody = f"http://127.0.0.1:{unused_port}"

    def models(*flags: str) -> int:
        return RUNNER.invoke(app, ["models", "list", "--json", *flags]).exit_code

    monkeypatch.setenv("MAILLE_CONFIG", str(write(tmp_path, f'url = "{nobody}"\n')))
    assert models() == 4
    monkeypatch.setenv("MAILLE_URL", mesh_under_test.http_url)
    assert models() == 0
    assert models("--url", nobody) == 4
    monkeypatch.setenv("MAILLE_URL", nobody)
    assert models("--url", mesh_under_test.http_url) == 0
    monkeypatch.delenv("MAILLE_URL")
    monkeypatch.setenv(
        "MAILLE_CONFIG", str(write(tmp_path, f'url = "{mesh_under_test.http_url}"\n'))
    )
    result = RUNNER.invoke(app, ["models", "list", "--json"])
    assert [model["name"] for model in json.loads(result.stdout)] == ["add", "double"]
