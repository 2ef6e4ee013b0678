"""What an environment's request for a sandbox comes to, with the server's templates: a template, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from megaflow.errors import FailedPrecondition
from megaflow.sandbox_request import SandboxRequest
from megaflow_server.backends.spec import Limits, Profile, filled
from megaflow_server.templates import PHASES, Reach, Reaches, Template, Users, find_template

__all__ = ["PROFILES", "Most", "template_of"]

# The name of a template that a request alone says everything of.
_UNNAMED = "task"


@dataclass(frozen=True)
class Most:
    """What requests that name no template may ask for.

    Attributes:
        cpu, memory, disk: as in `Limits`; None for what the profile gives, infinity for any number.
        network: what may be reached, as far as the profile has that.
    """

    cpu: float | None = None
    memory: float | None = None
    disk: float | None = None
    network: Reach = "public"


# Everything is the profile's.
PROFILES = Most()


def template_of(
    request: SandboxRequest,
    templates: Mapping[str, Template],
    *,
    profile_of: Callable[[str], Profile | None],
    most: Most = PROFILES,
    images: str = "docker",
) -> Template:
    """The template of a request, its image named: one of the server's, never wider than that is, or one of its own.

    Args:
        profile_of: a backend's profile, by the backend's name, of templates that name none.
        most: what a request that names no template may ask for.
        images: the backend of what has an image and names no template; without an image that is "process".

    Raises:
        NotFound: there is no template of this name.
        FailedPrecondition: the request asks for more than the template gives, or for something else.
    """
    if request.template is None:
        return _unnamed(request, profile_of, most, images)
    template = find_template(templates, request.template).with_image(request.image)
    given = filled(template.limits, template.profile or profile_of(template.backend))
    _check_limits(request, template.name, vars(given), "the template gives {:.15g}; raise it there")
    return replace(
        template,
        network=_network(request, template),
        user=_users(request, template),
        limits=_asked(request, template.limits),
        evidence=tuple(dict.fromkeys([*template.evidence, *request.evidence])),
        directory=request.directory or template.directory,
        folders=request.folders,
        environ={**template.environ, **request.environ},
    )


def _unnamed(
    request: SandboxRequest,
    profile_of: Callable[[str], Profile | None],
    most: Most,
    images: str,
) -> Template:
    backend = "process" if request.image is None else images
    usual = vars(filled(Limits(), profile_of(backend)))
    given = {name: getattr(most, name) or usual[name] for name in ("cpu", "memory", "disk")}
    way_out = "raise it in [sandboxes], or name a template that has it"
    _check_limits(request, _UNNAMED, given, f"this server gives {{:.15g}}; {way_out}")
    for phase, wanted in request.network.items():
        if not _is_within(wanted, most.network):
            why = f"this server gives {_shown(most.network)}; {way_out}"
            raise _refused(_UNNAMED, f"network.{phase}", wanted, why)
    # Whoever asks for nothing gets the profile's, where that is not more than there is.
    lower = {
        name: value
        for name, value in given.items()
        if value is not None and usual[name] is not None and value < usual[name]
    }
    return Template(
        _UNNAMED,
        backend=backend,
        image=request.image,
        network=Reaches(**{str(phase): reach for phase, reach in request.network.items()}),
        user=Users(**{str(phase): user for phase, user in request.user.items()}),
        limits=_asked(request, Limits(**lower)),
        evidence=request.evidence,
        directory=request.directory,
        folders=request.folders,
        environ=dict(request.environ),
    )


def _network(request: SandboxRequest, template: Template) -> Reaches:
    reaches = {phase: template.network.of(phase) for phase in PHASES}
    for phase, wanted in request.network.items():
        given = reaches[phase]
        if not _is_within(wanted, given):
            raise _refused(
                template.name,
                f"network.{phase}",
                wanted,
                f"the template gives {_shown(given)}; widen the template's network, or choose another template",
            )
        reaches[phase] = wanted
    return Reaches(**reaches)


def _is_within(wanted: Reach, given: Reach) -> bool:
    if wanted == "none" or given == "public":
        return True
    return wanted == given or (
        isinstance(wanted, tuple) and isinstance(given, tuple) and set(wanted) <= set(given)
    )


def _users(request: SandboxRequest, template: Template) -> Users:
    users = {phase: template.user.of(phase) for phase in PHASES}
    for phase, wanted in request.user.items():
        if users[phase] not in (None, wanted):
            raise _refused(
                template.name,
                f"user.{phase}",
                wanted,
                f"the template has {users[phase]!r}; leave it out there",
            )
        users[phase] = wanted
    return Users(**users)


def _check_limits(
    request: SandboxRequest, template: str, given: Mapping[str, float | None], why: str
) -> None:
    """Refuse what is more than is given; `why` says so of that."""
    asked = {"cpu": request.cpus, "memory": request.memory, "disk": request.disk}
    for name, wanted in asked.items():
        most = given[name]
        if wanted is not None and most is not None and wanted > most:
            raise _refused(template, f"limits.{name}", wanted, why.format(most))


def _asked(request: SandboxRequest, limits: Limits) -> Limits:
    return replace(
        limits,
        cpu=request.cpus or limits.cpu,
        memory=request.memory or limits.memory,
        disk=request.disk or limits.disk,
    )


def _refused(template: str, what: str, wanted: object, why: str) -> FailedPrecondition:
    shown = _shown(wanted) if isinstance(wanted, tuple) else repr(wanted)
    return FailedPrecondition(f"template {template}: {what}: the task asks for {shown}, and {why}")


def _shown(reach: object) -> str:
    return repr(list(reach)) if isinstance(reach, tuple) else repr(reach)
