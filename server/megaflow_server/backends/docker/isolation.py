"""What the profiles mean: what is asked of the engine for a container, and what must have come of it.

| control | strict | standard | trusted |
|---|---|---|---|
| user | never root; 65534 where the image says root | the image's | the image's |
| capabilities | none | none, but for what a package manager takes | the engine's |
| no new privileges, seccomp | yes | yes | the engine's |
| network | none | none, or public where asked for | public, or none where asked for |
| limits not given | 1 processor, 1 GiB, 256 processes, 4 GiB of disk | 2, 4 GiB, 1024, 16 GiB | none |
| the engine's socket, or a folder with it, as a mount | never | never | as asked |

For all of them: an init process, no swap beyond the memory limit, a private temporary folder in memory where
the root is read-only, no devices, never privileged, never a namespace of the host, no restart, and no log that
fills the engine's disk. Public is a network on which containers do not see each other; they reach what their
host reaches, metadata addresses and the host's own services among it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megaflow.errors import FailedPrecondition
from megaflow_server.backends.base import InstanceSpec, Limits, Network, Profile
from megaflow_server.backends.spec import filled

__all__ = ["NOBODY", "Engine", "build_limits", "differences", "host_config", "is_root", "settle"]

NOBODY = "65534:65534"

# What apt, dpkg and pip take as root to install something, and nothing that reaches the host.
_PACKAGE_MANAGER = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"]
# In microseconds, as the builder has processors.
_CPU_PERIOD = 100_000
# What an engine calls its means of limiting something.
_CONTROLS = {
    "memory": "memorylimit",
    "swap": "swaplimit",
    "cpu": "cpucfsquota",
    "pids": "pidslimit",
}
_TEMPORARY = "rw,nosuid,nodev,mode=1777,size=268435456"


@dataclass(frozen=True)
class Engine:
    """What an engine can enforce, by what it says of itself."""

    socket: Path
    seccomp: bool
    controls: frozenset[str]

    @classmethod
    def of(cls, info: Mapping[str, Any], socket: Path) -> Engine:
        """Read it from the engine's `info`."""
        security = info.get("SecurityOptions") or []
        # "CPUCfsQuota" to some engines, "CpuCfsQuota" to others.
        can = {name.lower() for name, value in info.items() if value is True}
        controls = {control for control, name in _CONTROLS.items() if name in can}
        if info.get("CgroupVersion") == "2" and "memory" in controls:
            controls.add("swap")  # which engines forget to say
        return cls(
            socket,
            # A profile other than the engine's own may be anything; "unconfined" is nothing.
            any("name=seccomp" in one and "unconfined" not in one for one in security),
            frozenset(controls),
        )


def settle(spec: InstanceSpec, image_user: str, engine: Engine) -> InstanceSpec:
    """The spec with everything that its profile leaves to us filled in.

    Raises:
        FailedPrecondition: it asks for what its profile forbids, or what this engine cannot enforce.
    """
    profile = spec.profile or "strict"
    network = _network(spec, profile)
    limits = filled(spec.limits, profile)
    user = spec.user if spec.user is not None else image_user
    if profile == "strict":
        if spec.user is not None and is_root(spec.user):
            raise _forbidden(spec, "user", spec.user, "a strict one never runs as root")
        if is_root(user):
            user = NOBODY
    if profile != "trusted":
        for mount in spec.mounts:
            if engine.socket.resolve().is_relative_to(mount.source.resolve()):
                raise _forbidden(
                    spec, "mounts", str(mount.source), "the engine's socket is in there"
                )
        if not engine.seccomp:
            raise FailedPrecondition(
                f"instance {spec.id}: the Docker Engine runs without seccomp, which the {profile} profile "
                "takes; start it with its default profile"
            )
    _check_controls(f"instance {spec.id}", limits, engine)
    return replace(spec, profile=profile, network=network, limits=limits, user=user)


def build_limits(what: str, profile: Profile, network: Network, engine: Engine) -> dict[str, Any]:
    """What is asked of the engine's builder for the steps of a build, which are root's, with the engine's capabilities.

    It can limit neither their processes together nor what they write together.

    Args:
        what: is built, for an error.

    Raises:
        FailedPrecondition: the engine cannot enforce it.
    """
    limits = replace(filled(Limits(), profile), pids=None)
    _check_controls(what, limits, engine)
    asked: dict[str, Any] = {"networkmode": "none"} if network == "none" else {}
    if limits.cpu is not None:
        asked |= {"cpuperiod": _CPU_PERIOD, "cpuquota": int(limits.cpu * _CPU_PERIOD)}
    if limits.memory is not None:
        asked |= {"memory": limits.memory, "memswap": limits.memory}
    if limits.disk is not None:
        ulimits = [{"Name": "core", "Soft": 0, "Hard": 0}]
        ulimits.append({"Name": "fsize", "Soft": limits.disk, "Hard": limits.disk})
        asked["ulimits"] = json.dumps(ulimits)
    return asked


def is_root(user: str) -> bool:
    """Whether a user, as an image or a spec names it, is root by its name or number."""
    name = user.partition(":")[0].strip()
    return name in ("", "root") or (name.isdecimal() and int(name) == 0)


def host_config(
    spec: InstanceSpec, network_name: str, *, quota: bool, written: int = 0
) -> dict[str, Any]:
    """What is asked of the engine for a spec that is settled.

    Args:
        network_name: of the engine's network that stands for "public".
        quota: whether its storage can limit what a container writes.
        written: bytes of its limit that what it is made of has used.
    """
    limits = spec.limits
    config: dict[str, Any] = {
        "NetworkMode": network_name if spec.network == "public" else "none",
        "Privileged": False,
        "Init": True,
        "IpcMode": "private",
        "ReadonlyRootfs": spec.read_only,
        "Tmpfs": {"/tmp": _TEMPORARY} if spec.read_only else {},
        "Mounts": [
            {
                "Type": "bind",
                "Source": str(mount.source),
                "Target": mount.target,
                "ReadOnly": mount.read_only,
                "BindOptions": {"Propagation": "rprivate"},
            }
            for mount in spec.mounts
        ],
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no"},
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
    }
    if spec.profile != "trusted":
        config["CapDrop"] = ["ALL"]
        config["CapAdd"] = _PACKAGE_MANAGER if spec.profile == "standard" else []
        config["SecurityOpt"] = ["no-new-privileges:true"]
    if limits.cpu is not None:
        config["NanoCpus"] = int(limits.cpu * 1e9)
    if limits.memory is not None:
        config["Memory"] = config["MemorySwap"] = int(limits.memory)
    if limits.pids is not None:
        config["PidsLimit"] = int(limits.pids)
    if limits.disk is not None:
        disk = int(limits.disk) - written
        # Until somebody looks at the size, one file at least is no larger.
        config["Ulimits"].append({"Name": "fsize", "Soft": disk, "Hard": disk})
        if quota:
            config["StorageOpt"] = {"size": str(disk)}
    return config


def differences(wanted: Mapping[str, Any], user: str, inspected: Mapping[str, Any]) -> list[str]:
    """Where a container is not what was asked for; an engine ignores what it does not know."""
    found = inspected["HostConfig"]
    wrong = [
        f"{name}={found.get(name)!r} instead of {value!r}"
        for name, value in wanted.items()
        if _plain(name, found.get(name)) != _plain(name, value)
    ]
    never = {
        "PidMode": ("",),
        "UsernsMode": ("",),
        "UTSMode": ("",),
        "OomKillDisable": (False, None),
    }
    wrong += [
        f"{name}={found.get(name)!r}"
        for name, allowed in never.items()
        if found.get(name) not in allowed
    ]
    wrong += [
        f"{name}={found[name]!r}" for name in ("Devices", "DeviceRequests") if found.get(name)
    ]
    if inspected["Config"].get("User", "") != user:
        wrong.append(f"User={inspected['Config'].get('User')!r} instead of {user!r}")
    return wrong


def _plain(name: str, value: Any) -> Any:
    """A value as it compares: what is absent is empty, lists of names have no order."""
    if name in ("CapDrop", "CapAdd"):
        return sorted(one.upper().removeprefix("CAP_") for one in value or [])
    if name == "Ulimits":
        return sorted((one["Name"], one["Soft"], one["Hard"]) for one in value or [])
    if name == "Mounts":
        return sorted(
            (
                one["Source"],
                one["Target"],
                one.get("ReadOnly", False),
                one["BindOptions"]["Propagation"],
            )
            for one in value or []
        )
    if name == "RestartPolicy":
        return (value or {}).get("Name") or "no"
    return value or None


def _check_controls(what: str, limits: Limits, engine: Engine) -> None:
    wanted = {name for name in ("cpu", "memory", "pids") if getattr(limits, name) is not None}
    wanted |= {"swap"} if "memory" in wanted else set()
    if missing := sorted(wanted - engine.controls):
        raise FailedPrecondition(
            f"{what}: this Docker Engine cannot limit {', '.join(missing)}; its kernel lacks the control group "
            "for it"
        )


def _network(spec: InstanceSpec, profile: Profile) -> Network:
    if profile == "strict" and spec.network == "public":
        raise _forbidden(spec, "network", spec.network, "a strict one has none")
    return spec.network or ("public" if profile == "trusted" else "none")


def _forbidden(spec: InstanceSpec, field: str, value: object, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"instance {spec.id}: {field}={value!r} conflicts with profile={spec.profile or 'strict'!r}: {why}"
    )
