from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow.errors import FailedPrecondition, InvalidArgument, NotFound
from megaflow.protocol import values
from megaflow.sandbox_request import PHASES, Reach, SandboxRequest, from_value, to_value
from megaflow_server.backends.spec import Limits, Profile
from megaflow_server.requested import PROFILES, Most, template_of
from megaflow_server.templates import Reaches, Template, Users

BIG = Template(
    "big",
    backend="docker",
    profile="standard",
    network=Reaches(setup="public", agent=("a.org", "b.org"), verifier="public"),
    user=Users(verifier="root"),
    limits=Limits(cpu=2, memory=4 << 30),
    environ={"A": "1", "B": "1"},
    evidence=("/logs/x",),
)
TEMPLATES = {"big": BIG, "pinned": Template("pinned", backend="docker", image="some:1")}


def made_of(
    request: SandboxRequest, templates: Mapping[str, Template], most: Most = PROFILES
) -> Template:
    """The template of a request, where containers are strict and processes have no profile."""
    profiles: dict[str, Profile] = {"docker": "strict"}
    return template_of(request, templates, profile_of=profiles.get, most=most)


def test_a_request_that_names_no_template_is_one() -> None:
    plain = made_of(SandboxRequest(directory="/app"), {})
    assert (plain.backend, plain.image, plain.directory) == ("process", None, "/app")
    assert plain.network == Reaches()
    request = SandboxRequest(
        image="x:1",
        network={"setup": "public", "agent": "none"},
        user={"agent": "u"},
        cpus=1,
        memory=1 << 30,
        environ={"A": "2"},
        evidence=("/e",),
    )
    own = made_of(request, TEMPLATES)
    assert (own.backend, own.image, own.profile) == ("docker", "x:1", None)
    assert own.network == Reaches(setup="public")
    assert (own.user, own.limits) == (Users(agent="u"), Limits(cpu=1, memory=1 << 30))
    assert (own.environ, own.evidence) == ({"A": "2"}, ("/e",))


def test_a_request_within_a_template() -> None:
    request = SandboxRequest(
        template="big",
        image="x:1",
        network={"agent": ("b.org",), "verifier": "none"},
        user={"agent": "u", "verifier": "root"},
        memory=1 << 30,
        disk=1 << 20,
        environ={"B": "2"},
        evidence=("/logs/x", "/logs/y"),
    )
    made = made_of(request, TEMPLATES)
    assert (made.image, made.profile, made.pool) == ("x:1", "standard", BIG.pool)
    assert made.network == Reaches(setup="public", agent=("b.org",), verifier="none")
    assert made.user == Users(agent="u", verifier="root")
    assert made.limits == Limits(cpu=2, memory=1 << 30, disk=1 << 20)
    assert (made.environ, made.evidence) == ({"A": "1", "B": "2"}, ("/logs/x", "/logs/y"))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            SandboxRequest(template="big", network={"agent": "public"}),
            r"network.agent: .*'public', and the template",
        ),
        (
            SandboxRequest(template="big", network={"agent": ("c.org",)}),
            r"network.agent: .*\['c.org'\]",
        ),
        (
            SandboxRequest(template="pinned", network={"setup": "public"}),
            r"network.setup: .*gives 'none'",
        ),
        (SandboxRequest(template="big", user={"verifier": "u"}), r"user.verifier: .*'u'.*'root'"),
        (SandboxRequest(template="big", memory=5 << 30), r"limits.memory: "),
        (SandboxRequest(template="big", cpus=2.5), r"limits.cpu: .*2.5, and the template gives 2;"),
        (SandboxRequest(template="big", disk=17 << 30), r"limits.disk: .*17179869184"),
        (SandboxRequest(template="pinned", memory=2 << 30), r"limits.memory: .*gives 1073741824;"),
        (SandboxRequest(template="pinned", cpus=1.5), r"limits.cpu: .*1.5, .*gives 1; raise"),
        (SandboxRequest(template="pinned", disk=5 << 30), r"limits.disk: "),
        (SandboxRequest(template="pinned", image="other:1"), r"image='some:1' is fixed"),
    ],
)
def test_a_request_for_more_than_a_template_gives(request_: SandboxRequest, message: str) -> None:
    with pytest.raises(FailedPrecondition, match=message):
        made_of(request_, TEMPLATES)


@pytest.mark.parametrize(
    "asked", [{"cpus": 1.5}, {"memory": 2 << 30}, {"disk": 5 << 30}, {"memory": 64 << 30}]
)
def test_who_names_no_template_gets_what_the_profile_gives_unless_the_server_says_more(
    asked: dict[str, Any],
) -> None:
    request = SandboxRequest(image="x:1", **asked)
    with pytest.raises(FailedPrecondition, match=r"limits\..*\[sandboxes\]"):
        made_of(request, {})
    anything = Most(math.inf, math.inf, math.inf)
    made = made_of(request, {}, anything)
    wanted = {name.replace("cpus", "cpu"): value for name, value in asked.items()}
    assert made.limits == Limits(**wanted)
    # Without an image there is no profile: what it asks for is the server's to refuse.
    assert made_of(SandboxRequest(**asked), {}).limits == Limits(**wanted)


def test_the_servers_most_is_what_requests_without_a_template_get() -> None:
    most = Most(cpu=0.5, memory=2 << 30, network=("a.org",))
    plain = made_of(SandboxRequest(image="x:1"), {}, most)
    assert plain.limits == Limits(cpu=0.5)  # less than the profile's; of the others that is left
    assert made_of(SandboxRequest(image="x:1", memory=2 << 30), {}, most).limits.memory == 2 << 30
    refused: list[tuple[dict[str, Any], str]] = [
        ({"cpus": 0.6}, "limits.cpu"),
        ({"memory": (2 << 30) + 1}, "limits.memory"),
        ({"network": {"setup": "public"}}, r"network.setup: .*gives \['a.org'\]"),
        ({"network": {"agent": ("b.org",)}}, r"network.agent: "),
    ]
    for asked, message in refused:
        with pytest.raises(FailedPrecondition, match=message):
            made_of(SandboxRequest(image="x:1", **asked), {}, most)
    reaching = SandboxRequest(image="x:1", network={"agent": ("a.org",)})
    assert made_of(reaching, {}, most).network == Reaches(agent=("a.org",))


WRONG: dict[str, list[object]] = {
    "image": [5, "", "a\0"],
    "template": [["x"], ""],
    "context": [b"/x"],
    "directory": [7, "rel", ""],
    "folders": [5, ["/x"], ("rel",), (1,), None, "."],
    "cpus": [0, -1, math.inf, math.nan, True, "1", [1]],
    "memory": [0, 1.5, math.inf, True, "1Gi"],
    "disk": [-1, 1.5, {}],
    "build_timeout": [math.inf, math.nan, "x", 0],
    "network": [
        *(None, 5, {"agent": 7}, {"agent": ()}, {"agent": [1]}, {"agent": ("a", 1)}),
        *({"nowhere": "none"}, {1: "none"}),
    ],
    "user": [{"agent": 0}, {"agent": ["x"]}, {"agent": None}, "root"],
    "environ": [{"A": 1}, {1: "A"}, {"A=B": "1"}, {"": "1"}, [], None],
    "evidence": [5, "/x", ["/x"], ("rel",), (1,), None],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_what_no_request_has_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=f"{field}[.:=]"):
        from_value({field: value})


def test_a_request_travels() -> None:
    request = SandboxRequest(
        image="x:1",
        network={"agent": ("a.org",), "setup": "public"},
        user={"agent": "1000"},
        cpus=0.5,
        memory=1 << 30,
        environ={"A": ""},
        evidence=("/e",),
        folders=("/e", "."),
        directory="/app",
        build_timeout=1,
    )
    assert from_value(values.decode(values.encode(to_value(request)))) == request


def test_a_template_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="did you mean 'big'"):
        made_of(SandboxRequest(template="bigg"), TEMPLATES)


reaches = st.one_of(
    st.sampled_from(["none", "public"]),
    st.lists(st.sampled_from(["a.org", "b.org", "c.org"]), min_size=1, unique=True).map(tuple),
)


@given(st.dictionaries(st.sampled_from(PHASES), reaches))
def test_nothing_is_ever_wider_than_the_template(network: dict[str, Reach]) -> None:
    try:
        made = made_of(SandboxRequest(template="big", network=network), TEMPLATES)  # type: ignore[arg-type]
    except FailedPrecondition:
        return
    for phase in PHASES:
        got, most = made.network.of(phase), BIG.network.of(phase)
        assert most == "public" or got in ("none", most) or set(got) <= set(most)
