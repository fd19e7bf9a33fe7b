"""The house's rules that no linter knows: a light daemon, documents that are true, files that say what they are for."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

from controller.config import Config, config_from
from ingest import wire
from ingest.messages import ChannelFrame, StepBudget, TwinFrame
from ingest.topics import TOPICS
from sim.site import load_site
from tests.conftest import ROOT
from twinbeam import app

ROOMS = ("controller", "ingest", "models", "sim", "experiments", "tests")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HEAVY = (
    "torch",
    "tensorflow",
    "sionna",
    "mitsuba",
    "drjit",
    "cvxpy",
    "ray",
    "sklearn",
    "matplotlib",
    "onnx",
    "trimesh",
    "shapely",
)


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after `statement`."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ended.stdout.split())


def test_the_daemon_stays_light() -> None:
    loaded = loaded_after(
        "import controller.live, controller.replay, controller.doctor, ingest.sources, sim.testbed_process"
    )
    assert loaded.isdisjoint(HEAVY)
    assert "numpy" in loaded


def test_the_door_opens_without_numpy() -> None:
    assert loaded_after("import twinbeam").isdisjoint({"numpy", "numba", "scipy", "zmq", *HEAVY})


def test_extras_cover_what_the_project_is_built_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [one for extra in project["optional-dependencies"].values() for one in extra]
    names = {re.split(r"[<>=\[]", one)[0] for one in wanted}
    assert names >= {"pyzmq", "numpy", "scipy", "cvxpy", "onnxruntime", "torch"}
    assert names >= {"sionna", "tensorflow", "numba", "prometheus-client"}
    assert all(re.search(r"[<=]", one) for one in wanted), "bounded above"
    assert all(re.search(r">=|==", one) for one in wanted), "bounded below"


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_opens_with_what_it_is_for(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        text = path.read_text()
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), path


def test_functions_and_modules_stay_short() -> None:
    """A rule of thumb with air above it: what grows past this is to be taken apart."""
    for room in ("controller", "ingest", "sim", "models", "experiments"):
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text()
            assert text.count("\n") <= 330, path
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    assert (node.end_lineno or 0) - node.lineno <= 70, f"{path}:{node.name}"


def test_nothing_unpickles() -> None:
    forbidden = re.compile(r"\bimport pickle\b|pickle\.load|allow_pickle\s*=\s*True|torch\.load|joblib\.load|\beval\(")
    for room in ("controller", "ingest", "sim", "models", "experiments"):
        for path in (ROOT / room).rglob("*.py"):
            assert not forbidden.search(path.read_text()), path


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def commands_in(text: str) -> list[list[str]]:
    """What a document tells its reader to type: `twinbeam …` and `make …` in code blocks and code spans."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)
    lines = [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`((?:twinbeam|make) [^`\n]+)`", text)
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(twinbeam|make) ", line)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands_in(path.read_text()):
        if words[0] == "make":
            assert words[1] in targets, words
            continue
        command, rest = get_command(app), words[1:]
        while hasattr(command, "commands") and rest:
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.split("=")[0] for word in rest if word.startswith("--")}
        assert used <= options | {"--help"}, words


def test_the_documents_are_there() -> None:
    readme = (ROOT / "README.md").read_text()
    for word in ("make run", "make test", "docs/live-page.png", "twinbeam replay", "twinbeam run", "twin build"):
        assert word in readme, word
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
    promised = (ROOT / "docs" / "cli.md").read_text()
    for field in ("decisions_sha256", "real_time_factor", "outage", "findings", "ladder", "cells", "zones"):
        assert f"`{field}" in promised, field


def block_of(document: str, language: str) -> str:
    """The first code block of a language in one of the documents."""
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / "docs" / document).read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_the_configuration_page_shows_the_defaults() -> None:
    shown = tomllib.loads(block_of("configuration.md", "toml"))
    assert config_from(shown, where="docs") == Config()
    for table, values in Config().model_dump().items():
        left_out = {key for key, value in values.items() if value is None}
        assert shown[table].keys() == values.keys() - left_out, table
        assert all(f"# {key} = " in block_of("configuration.md", "toml") for key in left_out)


def test_the_site_page_shows_a_site(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(block_of("site.md", "toml"))
    assert load_site(path).ris is not None


def test_the_sender_on_the_wire_page_is_understood() -> None:
    names: dict[str, Any] = {}
    exec(block_of("wire.md", "python"), names)
    cfr = np.arange(12).reshape(4, 3) + 1j
    message = wire.decode(names["channel_message"]("ue7", 5, cfr, 0.1))
    assert isinstance(message, ChannelFrame)
    assert (message.user, message.block, message.antennas) == ("ue7", 5, 4)
    assert np.array_equal(message.cfr[0], cfr)


def test_the_wire_page_names_every_message() -> None:
    page = (ROOT / "docs" / "wire.md").read_text()
    for name, topic in TOPICS.items():
        if topic.message in (StepBudget, TwinFrame):  # stay inside
            continue
        assert f"| `{name}` | `{topic.message.__name__}` |" in page
        for spec in topic.message.ARRAYS:
            assert spec.name in page
