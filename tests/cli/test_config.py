from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow import InvalidArgument
from megaflow_server import config as configuration
from megaflow_server.config import ServerConfig, load
from megaflow_server.tenant_tables import QuotaConfig, TenantConfig


def written(folder: Path, text: str) -> Path:
    path = folder / "megaflow.toml"
    path.write_text(text)
    return path


def test_defaults() -> None:
    config = load(None, {}).server
    assert config.listen == ["127.0.0.1:7447"]
    assert config.workers == len(os.sched_getaffinity(0))
    assert config.backend == "process"
    assert config.modules == []
    assert config.allow_import is False
    assert (config.token_file, config.tls_cert, config.tls_key) == (None, None, None)
    assert (config.insecure, config.data_host) == (False, None)


def test_every_key_of_a_file(tmp_path: Path) -> None:
    text = """
        [server]
        listen = ["unix:/run/a.sock", "localhost:1"]
        workers = 3
        backend = "fake"
        import = ["a", "b.c"]
        allow_import = true
        token_file = "/etc/megaflow/tokens"
        tls_cert = "/etc/megaflow/certificate.pem"
        tls_key = "/etc/megaflow/key.pem"
        insecure = true
        data_host = "gpu-1"
    """
    config = load(written(tmp_path, text), {}).server
    assert config.listen == ["unix:/run/a.sock", "localhost:1"]
    assert config.workers == 3
    assert config.backend == "fake"
    assert config.modules == ["a", "b.c"]
    assert config.allow_import is True
    assert config.token_file == Path("/etc/megaflow/tokens")
    assert config.tls_cert == Path("/etc/megaflow/certificate.pem")
    assert config.tls_key == Path("/etc/megaflow/key.pem")
    assert (config.insecure, config.data_host) == (True, "gpu-1")


def test_what_tenants_may_have(tmp_path: Path) -> None:
    text = """
        [server]
        lease = 30
        max_sessions = 100
        [tenants.research]
        quota = { sessions = 4000, sessions_per_minute = 600 }
        [tenants.guests.quota]
        sessions = 1
    """
    config = load(written(tmp_path, text), {})
    assert (config.server.lease, config.server.max_sessions) == (30.0, 100)
    assert config.tenants["research"].quota.sessions == 4000
    assert config.tenants["research"].quota.sessions_per_minute == 600.0
    assert config.tenants["guests"].quota.sessions_per_minute is None


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert load(written(tmp_path, ""), {}) == load(None, {})


def test_options_win_and_absent_ones_do_not(tmp_path: Path) -> None:
    path = written(tmp_path, '[server]\nworkers = 3\nallow_import = true\nimport = ["a"]\n')
    config = load(path, {"workers": 5, "modules": [], "allow_import": None, "backend": None}).server
    assert (config.workers, config.modules, config.allow_import) == (5, ["a"], True)
    assert load(path, {"allow_import": False}).server.allow_import is False


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[server]\nlisen = []\n", "server.lisen: unknown key; did you mean server.listen?"),
        ("[server]\nxyz = []\n", "server.xyz: unknown key; known here: server.listen, "),
        ("[serve]\n", "serve: unknown key; did you mean server?"),
        ('[server]\nworkers = "2"\n', "server.workers = '2': give a whole number"),
        ("[server]\nworkers = 0\n", "server.workers = 0: give more than 0"),
        ("[server]\nworkers = true\n", "server.workers = true: give a whole number"),
        ('[server]\nlisten = "a:1"\n', "server.listen = 'a:1': give a list, such as"),
        ("[server]\nlisten = [1]\n", "server.listen[0] = 1: give text, in quotes"),
        ("[server]\nlisten = []\n", "server.listen = []: give at least one"),
        ("[server]\nallow_import = 1\n", "server.allow_import = 1: give true or false"),
        ("[tenants.a]\nquta = 1\n", "tenants.a.quta: unknown key; did you mean tenants.a.quota?"),
        (
            "[tenants.a.quota]\nsesions = 1\n",
            "tenants.a.quota.sesions: unknown key; did you mean tenants.a.quota.sessions?",
        ),
        (
            "[tenants.a]\nquota = { sessions = 0 }\n",
            "tenants.a.quota.sessions = 0: give more than 0",
        ),
        ("[server]\nlease = 0\n", "server.lease = 0: give seconds from 1 to 2592000 (30 days)"),
        ("[server]\nlease = 0.999\n", "server.lease = 0.999: give seconds from 1"),
        ("[server]\nlease = inf\n", "server.lease = inf: give seconds from 1"),
        ("[server]\nlease = nan\n", "server.lease = nan: give seconds from 1"),
        ("[server]\nlease = 1e9\n", "server.lease = 1000000000.0: give seconds from 1"),
        (
            "[tenants.a.quota]\nsessions_per_minute = inf\n",
            "tenants.a.quota.sessions_per_minute = inf: give a number that is neither inf nor nan",
        ),
        ("[server]\ntoken_file = 3\n", "server.token_file = 3: give a path, in quotes"),
        ('[server]\nimport = ["a:b"]\n', "server.import[0] = 'a:b': give a module's name"),
        ("[server]\nworkers = 2026-01-31\n", "server.workers = 2026-01-31: give a whole number"),
        ("[server]\nbackend = 3\n", "server.backend = 3: give text, in quotes"),
        ("[server]\nlease = true\n", "server.lease = true: give a number"),
        ("[server]\nlog_bytes = 1.5\n", "server.log_bytes = 1.5: give 512Mi, 4Gi, or a number of"),
        ("tenants = 3\n", "tenants = 3: give a table"),
        ("server = 3\n", "server = 3: give a table"),
    ],
)
def test_faults_name_file_key_value_and_what_is_expected(
    tmp_path: Path, text: str, says: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InvalidArgument) as caught:
        load(path, {})
    assert caught.value.message.startswith(f"{path}: {says}")


# What TOML can hold.
TOML_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
TABLES: dict[str, Any] = {
    "server": ServerConfig,
    "tenants.a": TenantConfig,
    "tenants.a.quota": QuotaConfig,
}
KEYS = [
    f"{table}.{field.alias or name}"
    for table, model in TABLES.items()
    for name, field in model.model_fields.items()
]


@given(st.sampled_from(["server", "tenants", "tenants.a", *KEYS]), TOML_VALUES)
def test_whatever_a_key_holds_is_taken_or_refused_in_plain_words(key: str, value: object) -> None:
    table: Any = value
    for name in reversed(key.split(".")):
        table = {name: table}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configuration, "_read", lambda path: table)
        said = refusal()
    assert not said or key in said
    assert not re.search(r"Input|should|valid|pydantic|<class|datetime\.", plain(said))


def refusal() -> str:
    """What is said of a file; empty where it is taken."""
    try:
        load(Path("megaflow.toml"), {})
    except InvalidArgument as error:
        return error.message
    return ""


def plain(message: str) -> str:
    """A message without the values that it repeats."""
    return re.sub(r"(?s)(?<= = ).*?(?=: give )|unknown key.*", "", message)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"drain_grace": math.nan}, "--drain-grace nan: give 0 or more"),
        ({"drain_grace": -1.0}, "--drain-grace -1.0: give 0 or more"),
        ({"modules": ["a", "b:c"]}, "--import 'b:c': give a module's name, such as package.module"),
        ({"modules": [""]}, "--import '': give a module's name"),
        ({"workers": 0, "max_workers": 0}, "--workers 0: give more than 0\n--max-workers 0: give"),
    ],
)
def test_an_option_that_makes_no_sense_is_named_as_it_was_given(
    options: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        load(None, options)
    assert caught.value.message.startswith(says)


def test_a_principal_may_not_have_more_workers_than_all_have(tmp_path: Path) -> None:
    for path, options in (
        (None, {"workers": 4, "max_workers": 2}),
        (written(tmp_path, "[server]\nworkers = 4\n"), {"max_workers": 2}),
        (written(tmp_path, "[server]\nworkers = 4\nmax_workers = 2\n"), {}),
    ):
        with pytest.raises(InvalidArgument, match=r"workers=4 is over max_workers=2.* or raise"):
            load(path, options)
    assert load(None, {"workers": 2, "max_workers": 2}).server.workers == 2
    # What nobody has asked for gives way.
    assert load(None, {"max_workers": 1}).server.workers == 1


def test_the_shortest_and_the_longest_lease(tmp_path: Path) -> None:
    for seconds in (1, 2592000.0):
        assert load(written(tmp_path, f"[server]\nlease = {seconds}\n"), {}).server.lease == seconds


def test_every_fault_has_a_line(tmp_path: Path) -> None:
    path = written(tmp_path, '[server]\nworkers = "2"\nbackend = 3\nfoo = 1\n')
    with pytest.raises(InvalidArgument) as caught:
        load(path, {})
    assert len(caught.value.message.splitlines()) == 3


def test_no_toml(tmp_path: Path) -> None:
    path = written(tmp_path, "[server\n")
    with pytest.raises(InvalidArgument, match=r"is no TOML: .*line 1"):
        load(path, {})
    path.write_bytes(b"[server]\xff\n")
    with pytest.raises(InvalidArgument, match=r"byte 8 is no UTF-8, .* save the file as UTF-8"):
        load(path, {})


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"absent\.toml: cannot be read: No such file"):
        load(tmp_path / "absent.toml", {})
