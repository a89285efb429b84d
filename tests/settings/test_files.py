from __future__ import annotations

from pathlib import Path

import pytest

from poolproxy.errors import ConfigError
from poolproxy.settings.files import read_config


def test_the_auth_file_is_found_beside_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative auth_file starts at the configuration's folder, not at the working directory."""
    folder = tmp_path / "etc"
    folder.mkdir()
    text = '[poolproxy]\nauth_file = "users.txt"\n[databases."*"]\nhost = "127.0.0.1"\n'
    (folder / "poolproxy.toml").write_text(text)
    (folder / "users.txt").write_text('"alice" "secret"\n')
    monkeypatch.chdir(tmp_path)
    loaded = read_config("etc/poolproxy.toml")
    assert loaded.path == Path("etc/poolproxy.toml")
    assert loaded.text == text
    assert loaded.auth_text == '"alice" "secret"\n'
    assert loaded.secrets == {"alice": "secret"}
    assert loaded.config.settings.auth_file == "users.txt"


def test_without_an_auth_file_there_are_no_secrets(tmp_path: Path) -> None:
    """auth_file may be left out."""
    (tmp_path / "poolproxy.toml").write_text('[users.ann]\npassword = "x"\n[databases."*"]\n')
    loaded = read_config(tmp_path / "poolproxy.toml")
    assert (loaded.auth_text, loaded.secrets) == ("", {})


def test_a_missing_auth_file_is_told_with_the_other_mistakes(tmp_path: Path) -> None:
    """An auth_file that can't be read does not hide the mistakes of the configuration."""
    path = tmp_path / "poolproxy.toml"
    path.write_text('[poolproxy]\nauth_file = "users.txt"\nlisten_prot = 1\n')
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    texts = [str(mistake) for mistake in caught.value.mistakes]
    assert any("listen_port" in text for text in texts)
    assert any("users.txt" in text and "No such file" in text for text in texts)
