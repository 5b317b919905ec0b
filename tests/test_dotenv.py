"""Where settings come from: the environment, `.env`, and the example file that newcomers copy."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from dotenv.parser import parse_stream

from multiverse.config import SETTINGS, ConfigError, load_config

ADMIN_KEY = "s3cure-admin-key-of-a-test"
WITH_KEY = {"ADMIN_API_KEY": ADMIN_KEY}
EXAMPLE = Path(__file__).resolve().parent.parent / ".env.example"


def write_dotenv(directory: Path, text: str) -> Path:
    path = directory / ".env"
    path.write_text(text, encoding="utf-8")
    return path


def test_dotenv_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    path = write_dotenv(
        tmp_path,
        f"# a comment\nexport ADMIN_API_KEY=\"{ADMIN_KEY}\"\nPORT='9001'  # quoted\nHOST=127.0.0.1 # not quoted\n"
        "LOG_DIR=${HOME}/logs\nLOG_FILE=\nUNKNOWN_SETTING=1\nNO_VALUE\n",
    )
    config = load_config({"PORT": "9002"}, dotenv_path=path)
    assert (config.admin_api_key, config.port, config.host) == (ADMIN_KEY, 9002, "127.0.0.1")
    assert config.log_dir == "${HOME}/logs"
    assert config.log_file == "gateway.log"
    assert load_config({"PORT": ""}, dotenv_path=str(path)).port == 9001


def test_process_environment_and_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    write_dotenv(tmp_path, f"ADMIN_API_KEY={ADMIN_KEY}\nPORT=9003\nQUEUE_SIZE=5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "9004")
    before = dict(os.environ)
    config = load_config()
    assert (config.admin_api_key, config.port, config.queue_size) == (ADMIN_KEY, 9004, 5)
    assert dict(os.environ) == before


def test_a_given_mapping_hides_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9005")
    monkeypatch.setenv("METRICS_TOKEN", "from-the-process")
    config = load_config(WITH_KEY, dotenv_path=None)
    assert (config.port, config.metrics_token) == (8000, None)


def test_no_dotenv_and_a_directory_of_that_name_are_no_fault(tmp_path: Path) -> None:
    assert load_config(WITH_KEY, dotenv_path=tmp_path / ".env") == load_config(WITH_KEY, dotenv_path=None)
    (tmp_path / ".env").mkdir()
    assert load_config(WITH_KEY, dotenv_path=tmp_path / ".env") == load_config(WITH_KEY, dotenv_path=None)


def test_dotenv_with_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(f'\ufeffADMIN_API_KEY="{ADMIN_KEY}"\r\nPORT=9006\r\n'.encode())
    config = load_config({}, dotenv_path=path)
    assert (config.admin_api_key, config.port) == (ADMIN_KEY, 9006)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'PORT=9000\nADMIN_API_KEY="never closed\nHOST=::\n', ".env line 2 must be NAME=value"),
        (f"ADMIN_API_KEY={ADMIN_KEY}\n".encode("utf-16"), ".env must be UTF-8 text"),
    ],
)
def test_unreadable_dotenv_is_told_in_one_line(
    tmp_path: Path, content: bytes, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config({}, dotenv_path=tmp_path / ".env")
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def example_values() -> dict[str, str]:
    with EXAMPLE.open(encoding="utf-8") as stream:
        return {binding.key: binding.value or "" for binding in parse_stream(stream) if binding.key}


def test_example_file_lists_every_setting_with_its_default() -> None:
    values = example_values()
    assert list(values) == [setting.variable for setting in SETTINGS]
    assert {name: value for name, value in values.items() if name != "ADMIN_API_KEY"} == {
        setting.variable: setting.default for setting in SETTINGS if setting.default is not None
    }


def test_example_file_tells_what_each_setting_means() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    for setting in SETTINGS:
        comment = re.escape(f"# {setting.meaning}\n")
        assert re.search(rf"{comment}(?:# .*\n)?{setting.variable}=", text), setting.variable


def test_example_file_is_refused_until_its_key_is_changed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^ADMIN_API_KEY is still the example's; make one with: [^;]*; [^;]*$"):
        load_config({}, dotenv_path=EXAMPLE)
    changed = EXAMPLE.read_text(encoding="utf-8").replace(example_values()["ADMIN_API_KEY"], ADMIN_KEY)
    assert load_config({}, dotenv_path=write_dotenv(tmp_path, changed)) == load_config(WITH_KEY, dotenv_path=None)


def test_a_shell_reads_the_example_file_alike() -> None:
    script = 'set -au; . "$1"; env -0'
    finished = subprocess.run(
        ["sh", "-c", script, "sh", str(EXAMPLE)], capture_output=True, check=True, env={"PATH": os.environ["PATH"]}
    )
    seen = dict(entry.split("=", 1) for entry in finished.stdout.decode().split("\0") if entry)
    assert {name: seen[name] for name in example_values()} == example_values()
