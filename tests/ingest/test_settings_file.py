"""TOML into models: whatever is wrong with a file is said in one line that names the file and the key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ingest.errors import UsageRefused
from ingest.settings_file import read_toml, validated


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Antenna(_Table):
    gain_db: float = 0.0
    tilt_rad: Annotated[float, Field(ge=-1, le=1)] = 0.0


class Radio(_Table):
    rate_hz: Annotated[float, Field(gt=0)]
    main: Antenna = Antenna()
    spare: Antenna | None = None
    named: dict[str, Antenna] = {}
    listed: list[Antenna] = []
    label: str = ""

    @field_validator("label")
    @classmethod
    def _no_spaces(cls, label: str) -> str:
        if " " in label:
            raise ValueError("has a space in it")
        return label


class Settings(_Table):
    radio: Radio
    blocks: int = 10

    @model_validator(mode="after")
    def _enough_blocks(self) -> Settings:
        if self.blocks * self.radio.rate_hz < 1:
            raise ValueError("too few blocks for such a rate")
        return self


def read(folder: Path, text: str | bytes) -> Settings:
    path = folder / "settings.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return validated(Settings, read_toml(path), str(path))


def told(folder: Path, text: str | bytes) -> str:
    """What the user reads, without the file's name in front."""
    with pytest.raises(UsageRefused) as refusal:
        read(folder, text)
    assert refusal.value.exit_code == 2
    line = str(refusal.value)
    assert "\n" not in line
    start = f"{folder / 'settings.toml'}: "
    assert line.startswith(start)
    return line.removeprefix(start)


def test_a_valid_file(tmp_path: Path) -> None:
    text = "blocks = 3\n[radio]\nrate_hz = 1e6\nspare = {gain_db = 2.0}\n[radio.named.left]\ntilt_rad = 0.5\n"
    found = read(tmp_path, text)
    assert (found.blocks, found.radio.rate_hz) == (3, 1e6)
    assert found.radio.spare == Antenna(gain_db=2.0)
    assert found.radio.named == {"left": Antenna(tilt_rad=0.5)}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "key 'radio' is missing (add it)"),
        ("[radio]", "key 'radio.rate_hz' is missing (add it)"),
        ("[radio]\nrate_hz = 1.0\nrate_mhz = 1", "unknown key 'radio.rate_mhz' (did you mean 'rate_hz'?)"),
        ("bloks = 1\n[radio]\nrate_hz = 1.0", "unknown key 'bloks' (did you mean 'blocks'?)"),
        ("zzz = 1\n[radio]\nrate_hz = 1.0", "unknown key 'zzz' (known here: blocks, radio)"),
        ("bloks = 1", "unknown key 'bloks'; 1 more after it (did you mean 'blocks'?)"),
        ("[radio]\nrate_hz = 1.0\nmain.gain = 1", "unknown key 'radio.main.gain' (did you mean 'gain_db'?)"),
        ("[radio]\nrate_hz = 1.0\nspare.gain = 1", "unknown key 'radio.spare.gain' (did you mean 'gain_db'?)"),
        ("[radio]\nrate_hz = 1.0\nnamed.a.gain = 1", "unknown key 'radio.named.a.gain' (did you mean 'gain_db'?)"),
        ("[radio]\nrate_hz = 1.0\nlisted = [{}, {gain = 1}]", "unknown key 'radio.listed.1.gain' (did you mean 'gain_"),
        ("[radio]\nrate_hz = -1.0", "'radio.rate_hz': Input should be greater than 0, not -1.0"),
        ("[radio]\nrate_hz = nan", "'radio.rate_hz': Input should be greater than 0, not nan"),
        ("[radio]\nrate_hz = '1'", "'radio.rate_hz': Input should be a valid number, not '1'"),
        ("[radio]\nrate_hz = [1]", "'radio.rate_hz': Input should be a valid number"),
        ("radio = 5", "'radio': Input should be a valid dictionary or instance of Radio, not 5"),
        ("[radio]\nrate_hz = 1.0\nlabel = 'a b'", "'radio.label': has a space in it, not 'a b'"),
        ("blocks = 0\n[radio]\nrate_hz = 1.0", "too few blocks for such a rate"),
        ("blocks = 0.5\n[radio]\nrate_hz = 0.0", "'radio.rate_hz': Input should be greater than 0, not 0.0; 1 more"),
    ],
)
def test_what_is_wrong_and_where(text: str, line: str, tmp_path: Path) -> None:
    assert told(tmp_path, text).startswith(line)


@pytest.mark.parametrize(
    "text",
    [
        "a = ",
        "a = 1\na = 2",
        "[a\n",
        "= 5",
        "a = 2026-13-45",
        b"\xff\xfe",
        b"a = '\x00'",
        "a = " + "9" * 5000,
        "a = " + "[" * 5000,
        "a = {" * 3000,
    ],
    ids=["value", "twice", "table", "key", "date", "bytes", "zero", "endless number", "deep list", "deep table"],
)
def test_what_is_not_toml(text: str | bytes, tmp_path: Path) -> None:
    assert told(tmp_path, text).startswith("is not TOML: ")


def test_the_place_of_a_syntax_error_is_told(tmp_path: Path) -> None:
    assert "line 3" in told(tmp_path, "a = 1\nb = 2\nc = ?\n")


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("missing", "no such file"),
        ("folder", "is a directory"),
        ("below a file", "cannot be read"),
        ("long", "too long"),
    ],
)
def test_no_file_to_read(kind: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    places = {"missing": "none.toml", "folder": ".", "below a file": "file/settings.toml", "long": "x" * 300}
    with pytest.raises(UsageRefused) as refusal:
        read_toml(tmp_path / places[kind])
    assert str(refusal.value).startswith(f"{tmp_path / places[kind]}: ")
    assert word in str(refusal.value)


TOML_VALUES = st.recursive(
    st.booleans() | st.integers(-10, 10) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
KEYS = st.sampled_from(["radio", "blocks", "rate_hz", "main", "spare", "named", "listed", "gain_db", "x"])


@given(tables=st.dictionaries(KEYS, TOML_VALUES | st.dictionaries(KEYS, TOML_VALUES, max_size=4), max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_tables_are_taken_or_refused_in_a_line(tables: dict[str, Any]) -> None:
    try:
        validated(Settings, tables, "here")
        line = "here: "
    except UsageRefused as refusal:
        line = str(refusal)
    assert line.startswith("here: ")
    assert "\n" not in line


@given(content=st.binary(max_size=60))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    try:
        assert isinstance(read_toml(path), dict)
        line = f"{path}: "
    except UsageRefused as refusal:
        line = str(refusal)
    assert line.startswith(f"{path}: ")
