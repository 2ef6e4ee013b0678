"""Tokens at rest and in a running server's hands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow.errors import InvalidArgument, NotFound, Unauthenticated
from megaflow_server.gateway.auth import ADMIN, READ, SESSIONS, Principal
from megaflow_server.gateway.token_file import TokenFile
from megaflow_server.gateway.tokens import Tokens, new_token


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens")


def test_a_token_stands_for_its_principal_and_scopes(file: TokenFile) -> None:
    _, text = file.create("team", {READ, SESSIONS})
    assert Tokens(file.load()).principal(text) == Principal("team", frozenset({READ, SESSIONS}))


def test_a_principal_has_several_at_once_for_rotation(file: TokenFile) -> None:
    old, old_text = file.create("team")
    _, new_text = file.create("team")
    both = Tokens(file.load())
    assert both.principal(old_text) == both.principal(new_text)
    file.revoke(old.id)
    after = Tokens(file.load())
    assert after.principal(new_text).name == "team"
    with pytest.raises(Unauthenticated, match="revoked"):
        after.principal(old_text)


def test_who_shows_a_token_that_was_revoked_is_told(file: TokenFile) -> None:
    token, text = file.create("team")
    before = Tokens(file.load())
    file.revoke(token.id)
    after = before.replaced(file.load())
    _, other = file.create("team")
    for tokens in (after, after.replaced(file.load())):
        with pytest.raises(Unauthenticated, match=f"^token {token.id} of team was revoked"):
            tokens.principal(text)
    with pytest.raises(Unauthenticated, match="does not know"):
        after.principal(other)
    # One that is put back is none any more.
    assert after.replaced([token]).principal(text).name == "team"


def test_a_principal_holds_a_scope_as_long_as_one_of_its_tokens_does(file: TokenFile) -> None:
    now = 0.0
    first, _ = file.create("one", {SESSIONS})
    file.create("one", {SESSIONS}, timedelta(hours=1))
    file.create("one", {READ})
    file.create("two", {READ})
    tokens = Tokens(file.load(), lambda: now)
    assert tokens.holders(SESSIONS) == {"one"}
    assert tokens.holders(READ) == {"one", "two"}
    file.revoke(first.id)
    tokens = tokens.replaced(file.load())
    assert tokens.holders(SESSIONS) == {"one"}
    now = first.created.timestamp() + 3602
    assert tokens.holders(SESSIONS) == frozenset()


def test_no_file_has_a_token_of_the_servers_own_user(file: TokenFile) -> None:
    with pytest.raises(InvalidArgument, match=r"'local' is the user of the server.* another name"):
        file.create("local")
    assert not file.path.exists()
    token, _ = new_token("local")
    file.create("team")
    with file.path.open("a") as lines:
        lines.write(token.model_dump_json())
    with pytest.raises(InvalidArgument, match="line 2: principal: 'local' is the user"):
        file.load()


def test_a_token_says_what_it_is_and_is_hashed_at_rest(file: TokenFile) -> None:
    token, text = file.create("team")
    prefix, token_id, secret = text.split("_")
    assert (prefix, token_id) == ("mf", token.id)
    assert len(bytes.fromhex(secret)) >= 16
    assert secret not in file.path.read_text()
    assert text not in repr(token)
    assert token.sha256 not in repr(token)


def test_an_expired_token_says_so(file: TokenFile) -> None:
    token, text = file.create("team", lifetime=timedelta(hours=1))
    assert token.expires is not None
    ends = token.expires.timestamp()
    assert Tokens(file.load(), lambda: ends - 1).principal(text).name == "team"
    with pytest.raises(Unauthenticated, match=f"token {token.id} of team expired at"):
        Tokens(file.load(), lambda: ends).principal(text)


@given(st.text(max_size=80))
def test_whatever_else_is_shown_is_unknown(shown: str) -> None:
    token, _ = new_token("team")
    with pytest.raises(Unauthenticated, match="does not know"):
        Tokens([token]).principal(shown)


def test_every_token_is_compared_whichever_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [new_token(f"team-{number}") for number in range(5)]
    tokens = Tokens([token for token, _ in made])
    compared = []

    def compare(left: str, right: str) -> bool:
        compared.append(left)
        return left == right

    monkeypatch.setattr("megaflow_server.gateway.tokens.hmac.compare_digest", compare)
    for _, text in made:
        compared.clear()
        tokens.principal(text)
        assert compared == [token.sha256 for token, _ in made]


# ---------------------------------------------------------------- the file


def test_the_file_is_for_its_owner_alone(file: TokenFile) -> None:
    file.create("team")
    file.create("team")
    assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o601])
def test_a_file_that_others_may_open_is_refused(file: TokenFile, mode: int) -> None:
    token, _ = file.create("team")
    file.path.chmod(mode)
    for use in (
        file.load,
        lambda: file.create("team"),
        lambda: file.revoke(token.id),
    ):
        with pytest.raises(InvalidArgument, match=rf"mode {mode:04o}\): chmod 600 "):
            use()


def test_a_missing_file_says_how_to_make_one(file: TokenFile) -> None:
    with pytest.raises(
        InvalidArgument, match=f"tokens create PRINCIPAL --token-file {file.path}` "
    ):
        file.load()
    with pytest.raises(InvalidArgument, match="No such file"):
        file.revoke("00000000")
    assert not file.path.exists()


def test_what_is_not_there_cannot_be_revoked(file: TokenFile) -> None:
    token, _ = file.create("team")
    with pytest.raises(NotFound, match=f"'x'; it has: {token.id}"):
        file.revoke("x")


def test_a_symbolic_link_to_the_file_stays(file: TokenFile, tmp_path: Path) -> None:
    file.create("team")
    link = tmp_path / "link"
    link.symlink_to(file.path)
    TokenFile(link).create("team")
    assert link.is_symlink()
    assert len(file.load()) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": "x"}, "id is to be 8 hexadecimal digits"),
        ({"principal": "a b"}, "principal is to be 1 to 64 letters, digits"),
        ({"principal": None}, "principal is to be 1 to 64 letters, digits"),
        (
            {"scopes": ["reed"]},
            "scopes are to be one or more of admin, read, run, sessions, submit",
        ),
        ({"scopes": [3]}, "scopes are to be one or more of admin"),
        ({"scopes": "read"}, "scopes are to be one or more of admin"),
        ({"scopes": []}, "scopes are to be one or more of admin"),
        ({"sha256": "mf_secret"}, "sha256 is to be 64 hexadecimal digits"),
        (
            {"created": "yesterday"},
            "created is to be a time with its zone, such as 2026-01-31T12:00:00Z",
        ),
        ({"created": "2026-01-31T12:00:00"}, "created is to be a time with its zone"),
        ({"expires": 3}, "expires is to be a time with its zone"),
        ({"extra": 1}, "extra is no field of a token"),
        ({"sha256": ...}, "sha256 is missing"),
    ],
)
def test_a_broken_line_is_named_and_never_shown(
    file: TokenFile, change: dict[str, object], says: str
) -> None:
    file.create("team")
    line = json.loads(file.path.read_text())
    with file.path.open("a") as appended:
        changed = {key: one for key, one in {**line, **change}.items() if one is not ...}
        appended.write(json.dumps(changed) + "\n")
    with pytest.raises(InvalidArgument) as caught:
        file.load()
    assert f"line 2: {says}" in caught.value.message
    assert caught.value.message.endswith("take the line out, and make another token")
    assert "mf_secret" not in caught.value.message
    assert line["sha256"] not in caught.value.message


@pytest.mark.parametrize("text", ["mf_00000000_secret\n", "3\n", '{"id": "\n', "\n", "\xff\n"])
def test_what_is_no_token_is_refused(file: TokenFile, text: str) -> None:
    file.path.write_bytes(text.encode("latin-1"))
    file.path.chmod(0o600)
    with pytest.raises(InvalidArgument, match="line 1: it is no JSON object; ") as caught:
        file.load()
    assert "secret" not in caught.value.message


def test_a_second_token_of_the_same_id_is_refused(file: TokenFile) -> None:
    token, _ = file.create("team")
    file.path.write_text(file.path.read_text() * 2)
    with pytest.raises(InvalidArgument, match=f"line 2: a second token {token.id}"):
        file.load()


def test_many_at_once_lose_nothing(file: TokenFile) -> None:
    code = (
        "import sys; from pathlib import Path; from megaflow_server.gateway.token_file import TokenFile\n"
        "file = TokenFile(Path(sys.argv[1]))\n"
        "for _ in range(25): file.create('team')"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(file.path)], env=environ)
        for _ in range(4)
    ]
    assert [process.wait(timeout=60) for process in running] == [0] * 4
    assert len(file.load()) == 100
    assert os.listdir(file.path.parent) == [file.path.name]


@pytest.mark.parametrize("principal", ["", "a b", "-a", "a\n", "ü", "a" * 65])
def test_a_principal_is_a_plain_name(principal: str) -> None:
    with pytest.raises(InvalidArgument, match="principal="):
        new_token(principal)


@pytest.mark.parametrize("scopes", [(), ("",), (ADMIN, "root")])
def test_unknown_scopes_are_refused(scopes: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument, match="choose among admin, read, run, sessions, submit"):
        new_token("team", scopes)


def test_times_are_in_seconds_and_utc(file: TokenFile) -> None:
    token, _ = file.create("team", lifetime=timedelta(days=1))
    assert token.created.tzinfo == UTC
    assert token.expires == token.created + timedelta(days=1)
    assert abs(datetime.now(UTC) - token.created) < timedelta(minutes=1)
    assert file.load() == [token]
