"""What differs between the phases of a session, set-up, agent and verifier: what is reached, and who runs commands."""

from __future__ import annotations

from dataclasses import dataclass, field

from megaflow.errors import FailedPrecondition, InvalidArgument
from megaflow_server.backends.base import Backend, Network
from megaflow_server.egress import EVERYTHING, NOTHING, Hosts, can_listen
from megaflow_server.templates import PHASES, Phase, Reaches, Template, Users

__all__ = ["ALIKE", "Phases", "check_phases"]


@dataclass(frozen=True)
class Phases:
    """What is reached in each phase, and who runs its commands."""

    network: Reaches = field(default_factory=Reaches)
    user: Users = field(default_factory=Users)

    @property
    def one_network(self) -> bool:
        """Whether all phases are on the same network."""
        return len({self.reach(phase) for phase in PHASES}) == 1

    @property
    def any_hosts(self) -> bool:
        """Whether there is a phase in which hosts that are named are reached, and no others."""
        return any(isinstance(self.network.of(phase), tuple) for phase in PHASES)

    def reach(self, phase: Phase) -> Network:
        """The network of a phase: none where hosts are named, which are reached in another way."""
        reach = self.network.of(phase)
        return "none" if isinstance(reach, tuple) else reach

    def hosts(self, phase: Phase) -> Hosts:
        """Which hosts are reached in that other way.

        Raises:
            InvalidArgument: one of the names is none.
        """
        reach = self.network.of(phase)
        if isinstance(reach, tuple):
            return Hosts.parse(reach)
        return EVERYTHING if reach == "public" else NOTHING


# Nothing differs, and everybody is whom the instance has.
ALIKE = Phases()


def check_phases(template: Template, backend: Backend) -> Phases:
    """The phases of a template on its backend, before anything of it starts.

    Raises:
        FailedPrecondition: its backend or its profile cannot give them.
    """
    phases = Phases(template.network, template.user)
    for phase in PHASES:
        if _profile(template, backend) == "strict":
            _check_strict(template, phase)
        _check_hosts(phases, template, backend, phase)
    if not phases.one_network and "reach" not in backend.capabilities():
        raise _refused(
            template,
            f"network={ {phase: phases.reach(phase) for phase in PHASES} }",
            f"{backend.name} gives one network for all phases; choose one, or a backend with 'reach', such as docker",
        )
    return phases


def _check_hosts(phases: Phases, template: Template, backend: Backend, phase: Phase) -> None:
    reach = template.network.of(phase)
    if not isinstance(reach, tuple):
        return
    asked = _asked(template, phase)
    try:
        phases.hosts(phase)
    except InvalidArgument as error:
        raise _refused(template, asked, error.message) from None
    if "listen" in backend.capabilities() or (backend.name == "process" and can_listen()):
        return
    raise _refused(
        template,
        asked,
        f"{backend.name} gives lists of hosts only to a server that may enter the networks of its sandboxes, as root "
        "may (CAP_SYS_ADMIN): start it so; or choose 'public' where the task may reach more than these hosts, or "
        "bring what it needs in its image and choose 'none'",
    )


def _check_strict(template: Template, phase: Phase) -> None:
    if template.network.of(phase) != "none":
        raise _refused(
            template,
            _asked(template, phase),
            "it conflicts with profile='strict', which reaches nothing; choose standard or trusted, in the template "
            "or as [docker] profile",
        )
    user = template.user.of(phase)
    if user is not None and not all(one.isdecimal() and int(one) for one in user.split(":")):
        raise _refused(
            template,
            f"user.{phase}={user!r}",
            "it conflicts with profile='strict', which takes a number other than 0, since a name may be root by "
            "another name; name the user by its number, or choose standard, in the template or as [docker] profile",
        )


def _asked(template: Template, phase: Phase) -> str:
    reach = template.network.of(phase)
    return f"network.{phase}={list(reach) if isinstance(reach, tuple) else reach!r}"


def _profile(template: Template, backend: Backend) -> str | None:
    return template.profile or backend.profile


def _refused(template: Template, what: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(f"template {template.name}: {what}: {why}")
