"""The error tree: one table, a status for each class, and an exact list of names."""

from __future__ import annotations

import pickle
import re

import grpc
import pytest

from megaflow import errors
from megaflow.errors import MegaflowError

CLASSES = sorted(
    (
        cls
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, MegaflowError) and cls is not MegaflowError
    ),
    key=lambda cls: cls.__name__,
)
# Statuses of their own, which gRPC itself gives as well.
BOTH_WAYS = {
    "InvalidArgument": grpc.StatusCode.INVALID_ARGUMENT,
    "NotFound": grpc.StatusCode.NOT_FOUND,
    "Unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "PermissionDenied": grpc.StatusCode.PERMISSION_DENIED,
    "ResourceExhausted": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "FailedPrecondition": grpc.StatusCode.FAILED_PRECONDITION,
    "Unavailable": grpc.StatusCode.UNAVAILABLE,
    "DeadlineExceeded": grpc.StatusCode.DEADLINE_EXCEEDED,
}
INFRASTRUCTURE = {"ResourceExhausted", "Unavailable", "DeadlineExceeded", "SessionLost"}


def test_all_is_exact() -> None:
    public = {
        name
        for name, value in vars(errors).items()
        if getattr(value, "__module__", "") == errors.__name__
    }
    assert set(errors.__all__) == {name for name in public if not name.startswith("_")}
    assert sorted(errors.__all__) == errors.__all__


def test_the_drawn_tree_names_every_class() -> None:
    assert errors.__doc__ is not None
    drawn = re.findall(r"^(?:│   )*[├└]── (\w+)", errors.__doc__, re.MULTILINE)
    assert sorted(drawn) == [cls.__name__ for cls in CLASSES]


@pytest.mark.parametrize("cls", CLASSES)
def test_each_class_is_found_by_its_name(cls: type[MegaflowError]) -> None:
    assert errors.by_name(cls.__name__) is cls


@pytest.mark.parametrize("cls", CLASSES)
def test_each_class_has_a_status(cls: type[MegaflowError]) -> None:
    assert "status" in vars(cls)
    if cls.__name__ in BOTH_WAYS:
        assert cls.status is BOTH_WAYS[cls.__name__]
        assert errors.by_status(cls.status) is cls


@pytest.mark.parametrize("status", grpc.StatusCode)
def test_each_status_gives_a_class(status: grpc.StatusCode) -> None:
    assert issubclass(errors.by_status(status), MegaflowError)


def test_what_is_not_known_is_the_base() -> None:
    assert errors.by_name("FromTheFuture") is MegaflowError
    assert errors.by_name("Exception") is MegaflowError
    assert errors.by_status(grpc.StatusCode.INTERNAL) is MegaflowError


@pytest.mark.parametrize("cls", CLASSES)
def test_whose_fault_it_is(cls: type[MegaflowError]) -> None:
    assert cls.infrastructure is (cls.__name__ in INFRASTRUCTURE)


@pytest.mark.parametrize("cls", [MegaflowError, *CLASSES])
def test_errors_cross_processes_whole(cls: type[MegaflowError]) -> None:
    error = cls("what went wrong", retry_after=2.5)
    vars(error).update(
        {name: name for name in vars(error) if name not in ("message", "retry_after")}
    )
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is cls
    assert vars(back) == vars(error)
    assert str(back) == str(error)


def test_an_environments_failure_prints_what_is_known_of_it() -> None:
    error = errors.EnvironmentFailed("KeyError: 'x'", traceback="File …\n", log_tail="printed\n")
    assert str(error) == (
        "KeyError: 'x'\n\nRemote traceback:\nFile …\n\nLast lines of the worker's log:\nprinted"
    )
    assert str(errors.EnvironmentFailed("KeyError: 'x'")) == "KeyError: 'x'"


def test_a_loss_names_what_is_lost() -> None:
    assert errors.SessionLost("x", indices=range(2, 4)).indices == (2, 3)
    assert errors.SessionLost("x").indices == ()
