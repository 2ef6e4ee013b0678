"""`megaflow serve` for others: tokens, TLS, and what it refuses to do without."""

from __future__ import annotations

import subprocess
import sys
import traceback
from contextlib import closing
from pathlib import Path

import pytest

import megaflow
from certificates import make
from commands import Refused, Serve
from leftovers import Place
from megaflow_server.gateway.token_file import TokenFile

ONE_WORKER = ("--workers", "1")
ANYWHERE = ("--listen", "0.0.0.0:0")


@pytest.fixture
def tokens(place: Place) -> TokenFile:
    return TokenFile(place.folder / "tokens")


def play(address: str, token: str | None = None, tls: Path | bool | None = None) -> None:
    with closing(megaflow.make("CartPole-v1", server=address, token=token, tls=tls)) as env:
        env.reset(seed=0)
        env.step(env.action_space.sample())


def loopback(address: str) -> str:
    return f"127.0.0.1:{address.rpartition(':')[2]}"


@pytest.mark.long
def test_with_tls_and_tokens_it_serves_others(
    serve: Serve, place: Place, tokens: TokenFile
) -> None:
    files, other = make(place.folder, "127.0.0.1"), make(place.folder, "127.0.0.1", prefix="other")
    _, token = tokens.create("team")
    _, narrow = tokens.create("team", {"read"})
    served = serve(
        *ANYWHERE,
        *ONE_WORKER,
        *("--token-file", str(tokens.path)),
        *("--tls-cert", str(files.certificate), "--tls-key", str(files.key)),
        *("--data-host", "127.0.0.1"),
    )
    address = loopback(served.addresses[0])
    play(address, token, files.authority)
    with pytest.raises(megaflow.Unauthenticated, match=r"no token was shown: set \$MEGAFLOW_TOKEN"):
        play(address, None, files.authority)
    with pytest.raises(megaflow.Unauthenticated, match="does not know the token"):
        play(address, token + "0", files.authority)
    with pytest.raises(
        megaflow.PermissionDenied, match="scope sessions; this one of team has read"
    ):
        play(address, narrow, files.authority)
    with pytest.raises(
        megaflow.Unavailable, match=r"is not accepted.*set tls= or \$MEGAFLOW_TLS_CA"
    ):
        play(address, token, other.authority)
    with pytest.raises(megaflow.Unavailable, match="speaks TLS"):
        play(address, token)
    assert served.end() == 0
    place.assert_nothing_left()


def test_insecure_waives_tls_and_not_tokens(serve: Serve, tokens: TokenFile) -> None:
    _, token = tokens.create("team")
    served = serve(*ANYWHERE, *ONE_WORKER, "--insecure", "--token-file", str(tokens.path))
    address = loopback(served.addresses[0])
    play(address, token)
    with pytest.raises(megaflow.Unauthenticated):
        play(address)


def test_without_both_it_does_not_start(refused: Refused, tokens: TokenFile) -> None:
    tokens.create("team")
    assert "takes --token-file FILE" in refused(*ANYWHERE, "--insecure")
    said = refused(*ANYWHERE, "--token-file", str(tokens.path))
    assert "takes --tls-cert FILE and --tls-key FILE" in said


def test_faulty_files_are_named(refused: Refused, place: Place, tokens: TokenFile) -> None:
    tokens.create("team")
    tokens.path.chmod(0o644)
    assert f"chmod 600 {tokens.path}" in refused("--token-file", str(tokens.path))
    absent = str(place.folder / "absent")
    assert "tokens create" in refused("--token-file", absent)
    files = make(place.folder, "127.0.0.1")
    said = refused("--tls-cert", absent, "--tls-key", str(files.key))
    assert f"--tls-cert {absent}: cannot be read" in said


def test_a_data_host_that_is_empty(refused: Refused, place: Place) -> None:
    assert "data_host=''" in refused("--listen", "127.0.0.1:0", *ONE_WORKER, "--data-host", "")
    config = place.script("megaflow.toml", '[server]\ndata_host = ""\n')
    said = refused("--listen", "127.0.0.1:0", *ONE_WORKER, "--config", str(config))
    assert "data_host='': give the name or the address" in said


def test_a_file_configures_access(serve: Serve, place: Place, tokens: TokenFile) -> None:
    _, token = tokens.create("team")
    config = place.script(
        "megaflow.toml",
        f'[server]\nlisten = ["0.0.0.0:0"]\nworkers = 1\ntoken_file = "{tokens.path}"\n'
        "insecure = true\n",
    )
    served = serve("--config", str(config))
    play(loopback(served.addresses[0]), token)


def test_a_shell_takes_the_token_and_nothing_else(place: Place) -> None:
    script = "TOKEN=$(megaflow tokens create team --token-file t 2>/dev/null) && printf '<%s>' \"$TOKEN\""
    command = f'megaflow() {{ {sys.executable} -m megaflow_server "$@"; }}; {script}'
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, cwd=place.folder, timeout=60
    )
    assert done.stdout.startswith("<mf_"), done.stderr
    assert done.stdout.endswith(">")
    assert "\n" not in done.stdout


# ---------------------------------------------------------------- where no token may be


def test_a_token_is_where_it_is_shown_and_nowhere_else(
    serve: Serve, place: Place, tokens: TokenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = tokens.create("team")
    secret = token.rpartition("_")[2]
    monkeypatch.setenv("MEGAFLOW_TOKEN", token)  # the server's own environment has it, too
    served = serve(
        *("--listen", "127.0.0.1:0", *ONE_WORKER, "--token-file", str(tokens.path)),
        *("--data-host", "127.0.0.1"),
    )
    (address,) = served.addresses
    seen: list[str] = []
    with megaflow.Client(address, token=token) as client:
        seen.append(repr(client) + repr(vars(client)))
        env = client.make("CartPole-v1")
        env.reset(seed=0)
        assert env.spec is not None
        seen += [repr(env.spec), env.spec.to_json(), repr(env), repr(vars(env.unwrapped))]
        for wrong in (f"{token}0", f"{token} ", f"é{token}"):
            with pytest.raises(megaflow.MegaflowError) as caught:
                megaflow.Client(address, token=wrong)
            seen.append("".join(traceback.format_exception(caught.value)) + repr(caught.value))
        pids = place.processes()
        assert place.workers()
        seen += pids.values()
        seen += [Path(f"/proc/{pid}/environ").read_text() for pid in place.workers()]
        seen += [
            path.read_text(errors="replace")
            for folder in (place.temporary, place.folder)
            for path in folder.rglob("*")
            if path.is_file()
        ]
        env.close()
    assert len(seen) > 10
    served.process.terminate()
    seen += served.process.communicate(timeout=60)
    assert [text for text in seen if secret in text] == []
