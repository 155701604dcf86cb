"""`maille chat`, `generate`, `plan` and `models` with language models, at a terminal and in pipes."""

import asyncio
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
from language_standin import LanguageStandIn, language_stand_in
from scripted_language import TEXT, VIEW
from typer.testing import CliRunner, Result

from maille.cli import app, language_output
from maille_coordinator.language import StagePlace

pytestmark = pytest.mark.broker
RUNNER = CliRunner()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageStandIn]:
    with language_stand_in(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


@pytest.fixture
def mesh(running: LanguageStandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[LanguageStandIn]:
    monkeypatch.setenv("MAILLE_URL", running.http_url)
    monkeypatch.setenv("MAILLE_CONFIG", os.devnull)
    yield running
    running.language.hold = False
    running.language.views = [VIEW]
    running.language.gate = asyncio.Semaphore(0)


def call(*arguments: str, expect: int = 0, stdin: str | None = None) -> Result:
    result = RUNNER.invoke(app, list(arguments), input=stdin)
    assert result.exit_code == expect, result.output
    return result


def test_generate(mesh: LanguageStandIn) -> None:
    told = call("generate", "story", "--prompt", "Once", "--temperature", "0", "--seed", "1")
    assert told.stdout == TEXT + "\n"
    assert re.search(r"10 tokens, [\d.]+ tokens/s, first after", told.stderr)


def test_generate_as_json(mesh: LanguageStandIn, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Once there was")
    arguments = ["--prompt-file", str(tmp_path / "prompt.txt"), "--max-tokens", "4", "--json"]
    answer = json.loads(call("generate", "story", *arguments).stdout)
    assert answer["text"] == "Once upon a time"
    assert answer["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "cached_tokens": 1}
    assert answer["response_id"] in mesh.language.answers
    assert answer["first_token_s"] > 0


def test_generate_from_standard_input_and_with_stops(mesh: LanguageStandIn) -> None:
    told = call("generate", "story", "--stop", " the", "--stop", "never", stdin="Once")
    assert told.stdout == "Once upon a time,\n"


def test_generate_says_what_is_wrong(mesh: LanguageStandIn, tmp_path: Path) -> None:
    assert "add it" in call("generate", "nobody", "-p", "x", expect=1).stderr
    assert "shorten it" in call("generate", "story", "-p", "x " * 99, expect=1).stderr
    missing = call("generate", "story", "-f", str(tmp_path / "none"), expect=1)
    assert "cannot be read" in missing.stderr
    call("generate", "story", "-f", "a", "-p", "b", expect=2)
    error = json.loads(call("generate", "nobody", "-p", "x", "--json", expect=1).stderr)
    assert error["error"]["kind"] == "UnknownModel"


def test_plan(mesh: LanguageStandIn) -> None:
    told = call("plan", "story").stdout
    assert "runs like this" in told
    assert "layers 0-14   attic, 40 MB, copy on shed" in told
    assert "layers 15-29  desk" in told
    assert "left out" not in told
    assert "shed: left out: even the best ring" in call("plan", "story", "--explain").stdout
    plan = json.loads(call("plan", "story", "--explain", "--json").stdout)
    assert plan["stages"][1]["node"] == "desk"
    assert plan["possible"]
    call("plan", "nobody", expect=1)


def test_chat_answers_a_pipe_once(mesh: LanguageStandIn) -> None:
    told = call("chat", "--system", "Be brief", stdin="Tell me\na story\n")
    assert told.stdout == TEXT + "\n"
    *_, answer = mesh.language.answers.values()
    assert answer.request.prompt == (
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "Tell me\na story"},
    )
    assert "nothing to answer" in call("chat", "story", stdin=" ", expect=1).stderr


def test_models_show_and_list(mesh: LanguageStandIn) -> None:
    told = call("models", "show", "story").stdout
    assert "story version 2: 30 layers on 2 nodes, 110.0 tokens/s measured" in told
    assert "llama Q4_1, 135 M parameters, 98 MB, context of 64 tokens" in told
    assert json.loads(call("models", "show", "story", "--json").stdout)["state"] == "ready"
    assert "gguf" in call("models", "list").stdout
    assert "float32[batch, 2]" in call("models", "show", "double").stdout


def add(mesh: LanguageStandIn, directory: Path, *flags: str, expect: int = 0) -> Result:
    file = directory / "story.gguf"
    file.write_bytes(b"GGUF of a story")
    return call("models", "add", str(file), *flags, expect=expect)


def test_models_add_tells_the_way_to_ready(
    mesh: LanguageStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_output, "_POLL_S", 0.01)
    states = iter(["measuring", "loading", "loading", "checking", "ready"])
    views = mesh.language.models

    def moving() -> list[object]:
        state = next(states, "ready")
        text = "2 of 3 slices are there" if state == "loading" else ""
        return [replace(VIEW, state=state, state_text=text)]

    monkeypatch.setattr(mesh.language, "models", moving)
    told = add(mesh, tmp_path)
    assert told.stderr.splitlines() == [
        "cutting, sending and loading the slices: 2 of 3 slices are there",
        "the first token goes round",
        "ready",
    ]
    assert "30 layers on 2 nodes" in told.stdout
    monkeypatch.setattr(mesh.language, "models", views)
    assert json.loads(add(mesh, tmp_path, "--json").stdout)["state"] == "ready"


def test_models_add_says_why_not(
    mesh: LanguageStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "the nodes have 1.2 GB too little: start one more"
    mesh.language.views = [replace(VIEW, state="impossible", state_text=missing, stages=())]
    assert "1.2 GB too little" in add(mesh, tmp_path, expect=1).stderr
    assert "30 layers on 0 nodes" in add(mesh, tmp_path, "--no-wait").stdout
    monkeypatch.setattr(language_output, "_NO_NODE_S", 0.05)
    waiting = "no node is ready: start one with `maille node`"
    mesh.language.views = [replace(VIEW, state="waiting", state_text=waiting, stages=())]
    assert "start one with `maille node`" in add(mesh, tmp_path).stdout


class Terminal:
    """A `maille` command at a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._end, inner = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "maille.cli", *arguments],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=environment,
            start_new_session=True,
        )
        os.close(inner)
        self.shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def until(self, text: str) -> str:
        """Wait until it has been shown; all that was shown up to it."""
        deadline_s = time.monotonic() + 15
        while text not in self.shown:
            assert time.monotonic() < deadline_s, self.shown
            if select.select([self._end], [], [], 0.2)[0]:
                data = os.read(self._end, 65536).decode("utf-8", "replace")
                self.shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data)
        before, _, self.shown = self.shown.partition(text)
        return before


@pytest.mark.timeout(60)
def test_chat_at_a_terminal(mesh: LanguageStandIn) -> None:
    mesh.language.answers.clear()
    with Terminal("chat", "--temperature", "0") as terminal:
        top = terminal.until("> ")
        assert "story version 2: 30 layers on 2 nodes" in top
        assert "layers 15-29  desk" in top
        terminal.type("/system Be brief\n")
        terminal.until("noted")
        terminal.until("> ")
        terminal.type("Hello\n")
        terminal.until(TEXT)
        assert "tokens/s, first after" in terminal.until("> ")
        terminal.type("/nonsense\n")
        terminal.until("/reset forgets")
        terminal.until("> ")
        moved = (StagePlace("attic", 0, 14), StagePlace("cellar", 15, 29))
        mesh.language.views = [replace(VIEW, stages=moved)]
        terminal.type("Go on\n")
        terminal.until("the layers have moved:")
        assert "cellar" in terminal.until("> ")
        terminal.type("/reset\n")
        terminal.until("forgotten")
        terminal.until("> ")
        mesh.language.hold = True
        mesh.release(2)
        terminal.type("Again\n")
        terminal.until("2 tokens")
        os.killpg(terminal.process.pid, 2)
        terminal.until("stopped")
        terminal.until("> ")
        terminal.type("/quit\n")
        assert terminal.process.wait(15) == 0
    prompts = [answer.request.prompt for answer in mesh.language.answers.values()]
    system = {"role": "system", "content": "Be brief"}
    hello = {"role": "user", "content": "Hello"}
    said = {"role": "assistant", "content": TEXT}
    assert prompts == [
        (system, hello),
        (system, hello, said, {"role": "user", "content": "Go on"}),
        (system, {"role": "user", "content": "Again"}),
    ]
    *_, last = mesh.language.answers
    assert mesh.end_of(last) == "cancelled"
