"""The committed stubs against the wire's description. CI generates them afresh and compares; this is what can be
seen without the compiler."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor
from packaging.requirements import Requirement

from megaflow.protocol import megaflow_pb2, megaflow_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = ROOT / "megaflow" / "protocol"
SOURCE = re.sub(r"//.*", "", (PROTOCOL / "megaflow.proto").read_text())
FILE = megaflow_pb2.DESCRIPTOR


def messages(of: Iterator[Descriptor] | None = None) -> Iterator[Descriptor]:
    for message in FILE.message_types_by_name.values() if of is None else of:
        yield message
        yield from messages(iter(message.nested_types))


def test_the_stubs_have_the_messages_and_methods_of_the_description() -> None:
    written = re.findall(r"\b(?:message|enum|service|rpc)\s+(\w+)", SOURCE)
    services = list(FILE.services_by_name.values())
    enums = [*FILE.enum_types_by_name, *(enum.name for m in messages() for enum in m.enum_types)]
    generated = [message.name for message in messages() if not message.GetOptions().map_entry]
    generated += [*enums, *FILE.services_by_name]
    generated += [method.name for service in services for method in service.methods]
    assert Counter(written) == Counter(generated)
    assert all(hasattr(megaflow_pb2_grpc, f"{name}Stub") for name in FILE.services_by_name)


def test_the_stubs_have_the_fields_and_numbers_of_the_description() -> None:
    written = re.findall(r"\b(\w+)\s*=\s*(\d+)\s*(?:\[[^\]]*\])?;", SOURCE)
    fields = [
        (field.name, str(field.number))
        for message in messages()
        if not message.GetOptions().map_entry
        for field in message.fields
    ]
    enums = [
        *FILE.enum_types_by_name.values(),
        *(enum for message in messages() for enum in message.enum_types),
    ]
    values = [(value.name, str(value.number)) for enum in enums for value in enum.values]
    assert Counter(written) == Counter(fields + values)


def test_the_stubs_load_under_the_oldest_versions_that_are_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    protobuf = re.search(r"Protobuf Python Version: (\S+)", read("megaflow_pb2.py"))
    grpcio = re.search(r"GRPC_GENERATED_VERSION = '(\S+)'", read("megaflow_pb2_grpc.py"))
    assert protobuf is not None
    assert grpcio is not None
    assert f">={protobuf[1]}" in str(allowed["protobuf"])
    assert f">={grpcio[1]}" in str(allowed["grpcio"])


def read(name: str) -> str:
    return (PROTOCOL / name).read_text()
