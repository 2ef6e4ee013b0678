from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import Command
from megaflow_server.gateway.auth import Principal
from megaflow_server.gateway.token_file import TokenFile
from megaflow_server.gateway.tokens import Tokens


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def create(command: Command, path: Path, *arguments: str) -> str:
    done = command("tokens", "create", *arguments, "--token-file", str(path))
    assert done.status == 0, done.err
    return done.out


def test_standard_output_is_the_token_alone(command: Command, path: Path) -> None:
    text = create(command, path, "team")
    assert text.endswith("\n")
    (token,) = TokenFile(path).load()
    principal = Tokens([token]).principal(text[:-1])
    assert principal == Principal("team", frozenset({"sessions", "read", "submit"}))


def test_scopes_and_lifetime(command: Command, path: Path) -> None:
    create(command, path, "team", "--scope", "read,admin", "--expires", "30d")
    (token,) = TokenFile(path).load()
    assert token.scopes == {"read", "admin"}
    assert token.expires is not None
    assert (token.expires - token.created).days == 30


def test_json_has_the_token_once(command: Command, path: Path) -> None:
    made = json.loads(create(command, path, "team", "--expires", "90m", "--json"))
    listed = command("tokens", "list", "--token-file", str(path), "--json")
    (facts,) = json.loads(listed.out)
    assert made.pop("token").startswith(f"mf_{facts['id']}_")
    assert made == facts
    assert facts["principal"] == "team"
    assert facts["expired"] is False


def test_the_list_shows_no_secret(command: Command, path: Path) -> None:
    text = create(command, path, "team").strip()
    (token,) = TokenFile(path).load()
    listed = command("tokens", "list", "--token-file", str(path))
    assert listed.status == 0
    assert token.id in listed.out
    assert "never" in listed.out
    assert text.rpartition("_")[2] not in listed.out
    assert token.sha256[:16] not in listed.out


def test_a_revoked_token_is_gone(command: Command, path: Path) -> None:
    create(command, path, "team")
    (token,) = TokenFile(path).load()
    done = command("tokens", "revoke", token.id, "--token-file", str(path))
    assert (done.status, done.out) == (0, f"Token {token.id} of team is revoked.\n")
    assert TokenFile(path).load() == []
    again = command("tokens", "revoke", token.id, "--token-file", str(path))
    assert (again.status, again.out) == (2, "")
    assert "it has: none" in again.err


def test_the_default_file_is_in_the_users_configuration(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    done = command("tokens", "create", "team")
    assert str(tmp_path / "megaflow" / "tokens") in done.err
    assert len(TokenFile(tmp_path / "megaflow" / "tokens").load()) == 1


def test_a_folder_that_cannot_be_made(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    done = command("tokens", "create", "team")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert "cannot be made: Not a directory; name a file with --token-file" in done.err
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert command("tokens", "list").status == 2
    assert not (tmp_path / "megaflow").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a b",), "principal='a b'"),
        (("local",), "principal='local'"),
        (("team", "--scope", "root"), "choose among admin, read, run, sessions, submit"),
        (("team", "--scope", ""), "choose among"),
        (("team", "--expires", "soon"), "--expires"),
        (("team", "--expires", "0d"), "--expires"),
    ],
)
def test_wrong_arguments(
    command: Command, path: Path, arguments: tuple[str, ...], says: str
) -> None:
    done = command("tokens", "create", *arguments, "--token-file", str(path))
    assert (done.status, done.out) == (2, "")
    assert says in done.err
    assert not path.exists()
