"""Where settings come from, and that a wrong one is refused in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from rpc.settings import ServiceSettings, SettingsError, from_command_line, load_settings, option


@dataclasses.dataclass(frozen=True, kw_only=True)
class MillSettings(ServiceSettings):
    """A mill: 100 % stone-ground."""

    port: int = option("port to listen on", 4000, at_least=0, at_most=65535)
    stone: tuple[str, ...] = option("a millstone; repeatable", ())
    grain: Literal["wheat", "rye"] = option("what is ground", "wheat")
    hopper: int | None = option("what the hopper holds", None, at_least=1, size=True)
    speed: float = option("turns per second, up to 100 %", 1.0, at_least=0)
    drift: float = option("without a range", 0.0)
    covered: bool = option("keep the rain out", True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoneRequired(ServiceSettings):
    """A mill that needs stones."""

    stone: tuple[str, ...] = option("a millstone; repeatable")


def load(*flags: str, **environment: str) -> MillSettings:
    return load_settings(MillSettings, "mill", flags, {f"TOKENMILL_{key}": value for key, value in environment.items()})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mill.toml"


def test_without_anything_the_defaults_hold():
    assert load() == MillSettings()


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(file):
    file.write_text('port = 1\ngrain = "rye"\nspeed = 2\n')
    settings = load("--config", str(file), "--port", "3", PORT="2", GRAIN="wheat")
    assert (settings.port, settings.grain, settings.speed, settings.covered) == (3, "wheat", 2.0, True)


def test_the_environment_can_name_the_file(file):
    file.write_text("log-format = 'json'\nstone = ['upper', 'lower']\ncovered = false\nhopper = '2KiB'")
    settings = load(CONFIG=str(file))
    assert (settings.log_format, settings.stone, settings.covered) == ("json", ("upper", "lower"), False)
    assert (settings.hopper, settings.config) == (2048, file)


def test_an_empty_variable_is_not_set():
    assert load(PORT="", STONE="", CONFIG="") == MillSettings()


def test_variables_of_other_programs_are_not_ours():
    assert load(DEMO_MODEL="x") == MillSettings()


def test_a_repeatable_option_is_a_flag_several_times_or_a_variable_with_commas():
    assert load("--stone", "upper", "--stone", "lower").stone == ("upper", "lower")
    assert load(STONE="upper,lower").stone == ("upper", "lower")
    assert load("--stone", "flag", STONE="upper,lower").stone == ("flag",)


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("1", True), ("Yes", True), ("no", False), ("0", False)]
)
def test_booleans_of_the_environment(text, expected):
    assert load(COVERED=text).covered is expected


def test_booleans_of_the_command_line():
    assert load("--no-covered").covered is False
    assert load("--covered", COVERED="false").covered is True


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("512MiB", 512 * 2**20), ("1.5 GiB", 3 * 2**29), ("2KB", 2000), ("9007199254740993", 9007199254740993)],
)
def test_sizes_have_units_and_are_exact(text, size):
    assert load("--hopper", text).hopper == size


REFUSED = {
    "unknown flag": (["--ports", "1"], {}, "--ports"),
    "abbreviated flag": (["--por", "1"], {}, "--por"),
    "flag without its value": (["--port"], {}, "--port"),
    "stray word": (["wheat"], {}, "wheat"),
    "not a number": (["--port", "http"], {}, "--port: must be a whole number, got 'http'"),
    "a fraction": (["--port", "1.5"], {}, "--port: must be a whole number, got '1.5'"),
    "underscores": ([], {"PORT": "1_0"}, "--port: must be a whole number, got '1_0'"),
    "too large": (["--port", "65536"], {}, "--port: must be at least 0 and at most 65535, got 65536"),
    "too small": ([], {"PORT": "-1"}, "--port: must be at least 0 and at most 65535, got -1"),
    "below the only bound": (["--hopper", "0"], {}, "--hopper: must be at least 1, got 0"),
    "nan": (["--speed", "nan"], {}, "--speed: must be a finite number, got 'nan'"),
    "nan without a range": (["--drift", "nan"], {}, "--drift: must be a finite number, got 'nan'"),
    "infinity": (["--speed", "inf"], {}, "--speed: must be a finite number"),
    "infinity by overflow": (["--speed", "1e999"], {}, "--speed: must be a finite number"),
    "no such choice": (["--grain", "oats"], {}, "--grain: must be one of wheat, rye, got 'oats'"),
    "no boolean": ([], {"COVERED": "maybe"}, "--covered: must be true or false, got 'maybe'"),
    "unknown unit": (["--hopper", "5 bushels"], {}, "--hopper: must be a size such as 512MiB, got '5 bushels'"),
    "negative size": ([], {"HOPPER": "-5MiB"}, "--hopper: must be a size"),
    "endless size": (["--hopper", "9" * 400], {}, "--hopper: must be a size"),
    "empty text": (["--host", ""], {}, "--host: must be a text that is not empty"),
    "empty item": ([], {"STONE": "upper,,lower"}, "--stone: must be a text that is not empty"),
    "missing file": (["--config", "/nowhere/mill.toml"], {}, "No such file"),
    "a folder as file": (["--config", "/"], {}, "Is a directory"),
}


@pytest.mark.parametrize(("flags", "environment", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_by_name(flags, environment, message):
    with pytest.raises(SettingsError) as caught:
        load(*flags, **environment)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


REFUSED_FILES = {
    "unknown key": ("ports = 1", "unknown option 'ports'"),
    "a file in the file": ("config = 'other.toml'", "unknown option 'config'"),
    "not TOML": ("port: 1", "not TOML"),
    "a text for a number": ("port = '1x'", "--port: must be a whole number"),
    "a boolean for a number": ("port = true", "--port: must be a whole number, got True"),
    "a fraction for a whole number": ("port = 1.0", "--port: must be a whole number, got 1.0"),
    "a list for a number": ("speed = [1]", "--speed: must be a finite number"),
    "nan": ("speed = nan", "--speed: must be a finite number"),
    "a number for a text": ("host = 5", "--host: must be a text"),
    "a number for a boolean": ("covered = 1", "--covered: must be true or false"),
    "a number for a list": ("stone = 5", "--stone: must be a list"),
    "a number in a list": ("stone = [5]", "--stone: must be a text"),
    "a list for a choice": ("grain = ['rye']", "--grain: must be one of"),
    "a table": ("[mill]\nport = 1", "unknown option 'mill'"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED_FILES.values(), ids=REFUSED_FILES)
def test_a_wrong_file_is_refused(file, content, message):
    file.write_text(content)
    with pytest.raises(SettingsError) as caught:
        load("--config", str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf_8_is_refused(file):
    file.write_bytes(b"grain = '\xff'")
    with pytest.raises(SettingsError, match="not TOML"):
        load("--config", str(file))


@pytest.mark.parametrize("content", ["", "stone = []"])
def test_a_required_option_must_be_given(file, content):
    file.write_text(f"port = 1\n{content}")
    with pytest.raises(SettingsError, match=r"^--stone is required$"):
        load_settings(StoneRequired, "mill", ["--config", str(file)], {})


def test_help_lists_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as caught:
        load("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(MillSettings):
        assert f"--{field.name.replace('_', '-')}" in text
        assert field.metadata["help"] in text
    for shown in ("default: 4000", "default: none", "wheat|rye", "100 % stone-ground", "--no-covered"):
        assert shown in text


def test_a_main_reports_one_line_and_exits_with_2(capsys, monkeypatch):
    monkeypatch.setenv("TOKENMILL_PORT", "many")
    with pytest.raises(SystemExit) as caught:
        from_command_line(MillSettings, "mill", [])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "mill: --port: must be a whole number, got 'many'\n"
