"""The parts of the docker backend that need no engine: names, frames, figures, profiles, searches."""

from __future__ import annotations

import asyncio
import copy
import posixpath
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow.errors import (
    FailedPrecondition,
    InvalidArgument,
    MegaflowError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from megaflow_server.backends import Exit, Image, InstanceSpec, Limits, get_backend
from megaflow_server.backends.docker import figures, isolation, names
from megaflow_server.backends.docker.failures import EngineRefusal, refusal
from megaflow_server.backends.docker.images import Pull, Reference
from megaflow_server.backends.docker.options import DockerOptions
from megaflow_server.backends.docker.programs import find_program, search_path
from megaflow_server.backends.docker.sizes import volume_sizes
from megaflow_server.backends.docker.stream import Demultiplexer
from megaflow_server.backends.docker.wire import EngineSocket

DIGEST = "sha256:" + "0a" * 32
ABLE = {
    "SecurityOptions": ["name=seccomp,profile=default"],
    "MemoryLimit": True,
    "SwapLimit": True,
    "CpuCfsQuota": True,
    "PidsLimit": True,
    "CgroupVersion": "1",
}


def engine(**info: Any) -> isolation.Engine:
    return isolation.Engine.of({**ABLE, **info}, Path("/run/docker.sock"))


def spec(**fields: Any) -> InstanceSpec:
    return InstanceSpec("a", ("true",), Path("log"), image="image", **fields)


@pytest.mark.parametrize(
    ("text", "repository", "version"),
    [
        ("python", "python", "latest"),
        ("python:3.11", "python", "3.11"),
        ("team/image", "team/image", "latest"),
        ("registry.example/team/image:1", "registry.example/team/image", "1"),
        ("localhost:5000/image", "localhost:5000/image", "latest"),
        (f"python@{DIGEST}", "python", DIGEST),
        (f"python:3.11@{DIGEST}", "python", DIGEST),
    ],
)
def test_a_name_of_an_image_is_taken_apart(text: str, repository: str, version: str) -> None:
    reference = Reference.parse(text)
    assert (reference.repository, reference.version) == (repository, version)


@pytest.mark.parametrize(
    "text", ["", "Python", "a b", "a:", "a@sha256:0", "a//b", "../a", "a\n", "-a", "http://a/b"]
)
def test_what_is_no_name_of_an_image_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="image="):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("python", "mirror.example/hub/library/python:latest"),
        ("docker.io/python:3", "mirror.example/hub/library/python:3"),
        ("team/image:1", "mirror.example/hub/team/image:1"),
        ("registry.example/team/image:1", "mirror.example/hub/team/image:1"),
        ("localhost:5000/image:1", "mirror.example/hub/image:1"),
        (f"python@{DIGEST}", f"mirror.example/hub/library/python@{DIGEST}"),
    ],
)
def test_a_mirror_stands_in_for_every_registry(text: str, mirrored: str) -> None:
    assert Reference.parse(text).mirrored("mirror.example/hub").full == mirrored


def test_an_id_is_no_registrys() -> None:
    assert Reference.parse(DIGEST).mirrored("mirror.example").text == DIGEST


def test_the_progress_of_a_pull_is_the_sum_over_its_layers() -> None:
    pull = Pull("image")
    said: list[dict[str, Any]] = [
        {"status": "Pulling from image", "id": "1"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 10, "total": 100}},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 1, "total": 50}},
        {"status": "Verifying Checksum", "id": "a", "progressDetail": {}},
        {"status": "Download complete", "id": "a"},
        {"status": "Pull complete", "id": "never seen"},
    ]
    assert [pull.feed(event)[1:] for event in said] == [
        (0, 0),
        (10, 100),
        (11, 150),
        (11, 150),
        (101, 150),
        (101, 150),
    ]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("manifest unknown", NotFound),
        ("pull access denied for x, repository does not exist", NotFound),
        ("toomanyrequests: You have reached your pull rate limit", ResourceExhausted),
        ("write /x: no space left on device", ResourceExhausted),
        ("net/http: TLS handshake timeout", Unavailable),
    ],
)
def test_what_a_registry_refuses_is_named(said: str, error: type[MegaflowError]) -> None:
    with pytest.raises(error, match="image='a:1'"):
        Pull("a:1").feed({"error": said})


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300)), max_size=20),
    st.integers(1, 64),
)
def test_frames_come_apart_however_they_are_cut(frames: list[tuple[int, bytes]], size: int) -> None:
    wire = b"".join(bytes([kind, 0, 0, 0]) + len(b).to_bytes(4, "big") + b for kind, b in frames)
    reader = Demultiplexer()
    parts = [part for at in range(0, len(wire), size) for part in reader.feed(wire[at : at + size])]
    for kind in (1, 2):
        expected = b"".join(data for one, data in frames if one == kind)
        assert b"".join(data for one, data in parts if one == kind) == expected
    assert reader.whole
    reader.feed(b"\x01\0\0\0\0\0\0\x02x")
    assert not reader.whole


@given(st.integers(0, 255))
def test_a_code_is_a_signal_where_a_shell_would_say_so(code: int) -> None:
    how = figures.exit_of(code)
    assert how == (Exit(signal=code - 128) if 128 < code <= 192 else Exit(code=code))


def test_running_out_of_memory_is_the_reason_of_a_kill_alone() -> None:
    found: dict[str, Any] = {
        "State": {"Status": "exited", "ExitCode": 137, "OOMKilled": True},
        "HostConfig": {"Memory": 1 << 20},
    }
    assert figures.container_exit(found, None).reason == "it needed more memory than its 1.0 MiB"
    assert figures.container_exit(found, "the backend's").reason == "the backend's"
    found["State"]["ExitCode"] = 3
    assert figures.container_exit(found, None) == Exit(code=3)


def test_the_figures_of_both_versions_of_control_groups() -> None:
    said: dict[str, Any] = {
        "cpu_stats": {"cpu_usage": {"total_usage": 1_500_000_000}},
        "pids_stats": {"current": 3},
        "memory_stats": {"usage": 100, "max_usage": 200, "stats": {"total_inactive_file": 40}},
    }
    one = figures.stats(said, 7)
    assert (one.cpu_seconds, one.memory, one.memory_peak, one.pids, one.disk) == (
        1.5,
        60,
        200,
        3,
        7,
    )
    said["memory_stats"] = {"usage": 100, "stats": {"inactive_file": 30}}
    assert (figures.stats(said, None).memory, figures.stats(said, None).memory_peak) == (70, None)


@pytest.mark.parametrize(
    "wrap", [lambda one: {"Volumes": one}, lambda one: {"VolumeUsage": {"Items": one}}]
)
def test_the_sizes_of_volumes_that_older_and_newer_engines_count(
    wrap: Callable[[object], Mapping[str, Any]],
) -> None:
    said = [
        {"Name": "a", "UsageData": {"Size": 7, "RefCount": 1}},
        {"Name": "elsewhere", "UsageData": {"Size": -1, "RefCount": 1}},
        {"Name": "new", "UsageData": None},
    ]
    assert volume_sizes(wrap(said)) == {"a": 7}
    assert volume_sizes(wrap(None)) == {}


async def test_a_file_is_sent_whole(tmp_path: Path) -> None:
    content = bytes(range(256)) * (3 << 12)
    got = asyncio.get_running_loop().create_future()

    async def engine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        got.set_result((head, await reader.readexactly(len(content))))
        line = b'{"stream": "Step 1"}\n'
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(line), line))
        await writer.drain()
        writer.close()

    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        async with await asyncio.start_unix_server(engine, tmp_path / "socket"):
            socket = EngineSocket(tmp_path / "socket", "1.41")
            async with socket.objects("POST", "/build", tar=file) as events:
                assert [one async for one in events] == [{"stream": "Step 1"}]
            head, received = await got
    assert b"Content-Length: %d\r\n" % len(content) in head
    assert b"Content-Type: application/x-tar" in head
    assert received == content


def test_a_profile_fills_in_what_a_spec_leaves_to_it() -> None:
    strict = isolation.settle(spec(limits=Limits(pids=7)), "", engine())
    assert (strict.profile, strict.network, strict.user) == ("strict", "none", isolation.NOBODY)
    assert strict.limits == Limits(cpu=1.0, memory=1 << 30, pids=7, disk=4 << 30)
    assert isolation.settle(spec(), "1000", engine()).user == "1000"
    standard = isolation.settle(spec(profile="standard"), "", engine())
    assert (standard.network, standard.user) == ("none", "")
    trusted = isolation.settle(spec(profile="trusted"), "", engine())
    assert (trusted.network, trusted.limits) == ("public", Limits())


@pytest.mark.parametrize("profile", ["strict", "standard"])
@pytest.mark.parametrize(
    ("info", "missing"),
    [
        ({"SecurityOptions": []}, "seccomp"),
        ({"SecurityOptions": ["name=seccomp,profile=unconfined"]}, "seccomp"),
        ({"MemoryLimit": False}, "memory"),
        ({"SwapLimit": False}, "swap"),
        ({"CpuCfsQuota": False}, "cpu"),
        ({"PidsLimit": False}, "pids"),
    ],
)
def test_an_engine_that_lacks_a_control_fails_closed(
    profile: Any, info: dict[str, Any], missing: str
) -> None:
    with pytest.raises(FailedPrecondition, match=missing):
        isolation.settle(spec(profile=profile), "", engine(**info))
    isolation.settle(spec(profile="trusted"), "", engine(**info))


def inspected(wanted: Mapping[str, Any], user: str) -> dict[str, Any]:
    """What an engine says that has done as it was told."""
    plain = {"PidMode": "", "UsernsMode": "", "UTSMode": "", "OomKillDisable": False, "Devices": []}
    return {"HostConfig": {**plain, **copy.deepcopy(dict(wanted))}, "Config": {"User": user}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NetworkMode", "bridge"),
        ("Privileged", True),
        ("Init", None),
        ("ReadonlyRootfs", False),
        ("CapDrop", None),
        ("CapAdd", ["SYS_ADMIN"]),
        ("SecurityOpt", None),
        ("NanoCpus", 0),
        ("Memory", 0),
        ("MemorySwap", -1),
        ("PidsLimit", None),
        ("Ulimits", None),
        ("IpcMode", "host"),
        ("PidMode", "host"),
        ("UsernsMode", "host"),
        ("OomKillDisable", True),
        ("Devices", [{"PathOnHost": "/dev/kvm"}]),
        ("DeviceRequests", [{"Driver": "nvidia"}]),
    ],
)
def test_every_control_that_an_engine_leaves_out_is_seen(name: str, value: object) -> None:
    settled = isolation.settle(spec(read_only=True), "", engine())
    wanted = isolation.host_config(settled, "public", quota=True)
    found = inspected(wanted, settled.user or "")
    assert isolation.differences(wanted, settled.user or "", found) == []
    found["HostConfig"][name] = value
    assert [
        text.partition("=")[0] for text in isolation.differences(wanted, settled.user or "", found)
    ] == [name]


def test_builds_have_the_limits_of_the_profile() -> None:
    strict = isolation.build_limits("an image", "strict", "none", engine())
    assert strict.pop("ulimits") == (
        '[{"Name": "core", "Soft": 0, "Hard": 0}, '
        f'{{"Name": "fsize", "Soft": {4 << 30}, "Hard": {4 << 30}}}]'
    )
    assert strict == {
        "networkmode": "none",
        "cpuperiod": 100_000,
        "cpuquota": 100_000,
        "memory": 1 << 30,
        "memswap": 1 << 30,
    }
    standard = isolation.build_limits("an image", "standard", "public", engine())
    assert (standard["cpuquota"], standard["memory"]) == (200_000, 4 << 30)
    assert "networkmode" not in standard
    assert isolation.build_limits("an image", "trusted", "public", engine()) == {}
    with pytest.raises(FailedPrecondition, match=r"an image: .* cannot limit cpu"):
        isolation.build_limits("an image", "strict", "none", engine(CpuCfsQuota=False))
    isolation.build_limits("an image", "strict", "none", engine(PidsLimit=False))


def test_another_user_than_the_one_asked_for_is_seen() -> None:
    settled = isolation.settle(spec(), "", engine())
    wanted = isolation.host_config(settled, "public", quota=False)
    assert isolation.differences(wanted, "65534:65534", inspected(wanted, "")) == [
        "User='' instead of '65534:65534'"
    ]


def test_a_container_is_not_labelled_by_what_its_image_was_once_committed_with() -> None:
    old = names.image_labels("scope", {"run": "1"}, {"owner": "x"}, 5)
    new = names.container_labels("scope", spec(labels={"kind": "y"}), old, 5, 0)
    effective = {**old, **new}
    assert {name for name, value in effective.items() if value == ""} >= {
        "megaflow.run",
        names.IMAGE,
    }
    assert effective["megaflow.kind"] == "y"


def container(name: str = "/scope-a", **changed: str | None) -> dict[str, Any]:
    """What an engine says of a container of ours, whose labels were changed."""
    labels = names.container_labels("scope", spec(labels={"run": "1"}, profile="strict"), {}, 5, 3)
    changes = {f"megaflow{name.replace('_', '-')}": value for name, value in changed.items()}
    found = {name: value for name, value in (labels | changes).items() if value is not None}
    return {"Name": name, "Config": {"Labels": found}}


def test_a_container_of_ours_says_what_it_is() -> None:
    assert names.carried("scope", container()) == names.Carried(
        "a", {"run": "1"}, "strict", None, 5, 3
    )
    assert names.carried("scope", container(_disk="7")) == names.Carried(
        "a", {"run": "1"}, "strict", 7, 5, 3
    )


@pytest.mark.parametrize(
    "inspected",
    [
        {"Name": "/scope-a", "Config": {"Labels": None}},
        {"Name": "/scope-a", "Config": {"Labels": {"megaflow-scope": "scope"}}},
        container("/elegant_name"),
        container(_scope="other"),
        container(_id=None),
        container(_id="b"),
        container(_profile=None),
        container(_profile="none"),
        container(_labels=None),
        container(_labels=""),
        container(_labels="nojson"),
        container(_labels="[" * 100_000),
        container(_labels="[]"),
        container(_labels='{"run": 1}'),
        container(_labels='{"run": "2"}'),
        container(_disk=None),
        container(_disk="much"),
        container(_disk="0"),
        container(_disk="true"),
        container(_disk='"7"'),
        container(_base=None),
        container(_base="-1"),
        container(_written="much"),
    ],
)
def test_a_container_that_carries_some_of_our_labels_is_none_of_ours(
    inspected: dict[str, Any],
) -> None:
    assert names.carried("scope", inspected) is None


def test_what_a_snapshot_holds_is_what_it_has_beyond_the_first_image() -> None:
    labels = names.image_labels("scope", {}, {}, 5)
    ours = {"Id": "1", "Size": 12, "Comment": names.COMMENT, "Config": {"Labels": labels}}
    assert names.sizes("scope", ours) == (5, 7)
    assert names.sizes("scope", {**ours, "Comment": ""}) == (12, 0)
    assert names.sizes("scope", {**ours, "Config": {"Labels": None}}) == (12, 0)


def test_an_image_is_committed_by_us_and_not_by_its_labels() -> None:
    labels = names.image_labels("scope", {"run": "1"}, {}, 5)
    ours = {"Id": "sha256:1", "Comment": names.COMMENT, "Config": {"Labels": labels}}
    assert names.committed("scope", ours) == Image("sha256:1", {"run": "1"})
    assert names.committed("other", ours) is None
    for broken in (
        {"Comment": ""},
        {"Config": {"Labels": None}},
        {"Config": {"Labels": {**labels, "megaflow-labels": "nojson"}}},
        {"Config": {"Labels": {**labels, "megaflow-image": "build"}}},
        {"Config": {"Labels": {**labels, **names.build_labels()}}},
    ):
        assert names.committed("scope", {**ours, **broken}) is None


@pytest.mark.parametrize(
    ("error", "starting", "expected"),
    [
        (EngineRefusal(404, "no such container"), False, NotFound),
        (EngineRefusal(409, "conflict"), False, FailedPrecondition),
        (EngineRefusal(500, "no space left on device"), False, ResourceExhausted),
        (EngineRefusal(500, "anything else"), False, Unavailable),
        (EngineRefusal(400, "exec: executable file not found"), True, InvalidArgument),
        (EngineRefusal(500, "unable to find user x"), True, InvalidArgument),
    ],
)
def test_what_an_engine_refuses_is_one_of_ours(
    error: EngineRefusal, starting: bool, expected: type[MegaflowError]
) -> None:
    ours = refusal("what", error, starting=starting)
    assert type(ours) is expected
    assert ours.message == f"what: {error.message}"


LINK, FOLDER = 1 << 27, 1 << 31
TREE: dict[str, dict[str, Any]] = {
    "/bin": {"mode": FOLDER | 0o755},
    "/bin/busybox": {"mode": 0o755},
    "/bin/sh": {"mode": LINK | 0o777, "linkTarget": "/bin/busybox"},
    "/usr/bin/sh": {"mode": LINK | 0o777, "linkTarget": "../../bin/sh"},
    "/bin/round": {"mode": LINK | 0o777, "linkTarget": "/bin/round"},
    "/bin/data": {"mode": 0o644},
    "/work/tool": {"mode": 0o755},
}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("busybox", "/bin/busybox"),
        ("sh", "/usr/bin/sh"),
        ("/bin/sh", "/bin/sh"),
        ("./tool", "/work/./tool"),
        ("tool", None),
        ("round", None),
        ("data", None),
        ("/bin", None),
        ("absent", None),
    ],
)
async def test_a_program_is_where_its_runtime_finds_it(name: str, found: str | None) -> None:
    async def look(place: str) -> Mapping[str, Any] | None:
        return TREE.get(posixpath.normpath(place))

    assert await find_program(name, "/usr/bin:/bin", "/work", look) == found


def test_the_search_path_is_the_last_that_is_set() -> None:
    assert search_path(["PATH=/a", "X=1", "PATH=/b"]) == "/b"
    assert search_path([]).endswith(":/bin")


@pytest.mark.parametrize("address", ["tcp://10.0.0.5:2375", "ssh://host", "unix://relative"])
def test_an_engine_of_another_host_is_refused(address: str) -> None:
    with pytest.raises(FailedPrecondition, match="unix:///path"):
        _ = DockerOptions(address=address).socket


@pytest.mark.parametrize("scope", ["", "A", "a/b", "a" * 33])
def test_a_scope_is_what_a_container_can_be_named_by(scope: str) -> None:
    with pytest.raises(InvalidArgument, match="scope="):
        DockerOptions(scope=scope)


def test_no_engine_is_a_failed_precondition_that_says_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("docker")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
    with pytest.raises(
        FailedPrecondition, match=r"no Docker Engine answers at .*absent\.sock.*DOCKER_HOST"
    ):
        get_backend("docker")


def test_without_its_sdk_the_backend_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in sys.modules if name.startswith("megaflow_server.backends.docker.")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "docker", None)
    with pytest.raises(FailedPrecondition, match=r"pip install 'megaflow\[docker\]'"):
        get_backend("docker")
