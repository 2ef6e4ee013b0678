"""Exceptions on the wire and back: the tree as it is, known classes as themselves, all else by name."""

from __future__ import annotations

import builtins
import os
import traceback
from collections.abc import Callable
from typing import Any

import grpc
import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow import errors
from megaflow.protocol import failures, values
from megaflow.protocol import megaflow_pb2 as pb

TREE = [getattr(errors, name) for name in errors.__all__ if name not in ("by_name", "by_status")]


def roundtrip(error: BaseException) -> Exception:
    data = failures.to_message(error).SerializeToString()
    return failures.from_message(pb.Error.FromString(data))


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


# ---------------------------------------------------------------- the tree


@pytest.mark.parametrize("cls", TREE)
@given(
    message=st.text(st.characters(exclude_categories=["Cs"])),
    retry_after=st.none() | st.floats(0, 60),
)
def test_the_tree_comes_back_as_it_is(
    cls: type[Any], message: str, retry_after: float | None
) -> None:
    back: Any = roundtrip(cls(message, retry_after=retry_after))
    assert type(back) is cls
    assert back.message == message
    if cls is not errors.EnvironmentFailed:
        assert back.retry_after == retry_after


def test_environment_failed_keeps_what_it_knows() -> None:
    back = roundtrip(
        errors.EnvironmentFailed("m", exception_type="a.B", traceback="lines", log_tail="log")
    )
    assert isinstance(back, errors.EnvironmentFailed)
    assert (back.message, back.exception_type, back.traceback, back.log_tail) == (
        "m",
        "a.B",
        "lines",
        "log",
    )


def test_a_subclass_travels_as_its_class_of_the_tree() -> None:
    class Mine(errors.NotFound):
        pass

    assert type(roundtrip(Mine("gone"))) is errors.NotFound


def test_a_kind_that_this_version_does_not_know() -> None:
    back = failures.from_message(pb.Error(kind="FromTheFuture", message="new"))
    assert type(back) is errors.MegaflowError
    assert back.message == "new"


# ---------------------------------------------------------------- an environment's own


@pytest.mark.parametrize(
    "error",
    [
        ValueError("text", 3, ("nested", 1.5), None),
        KeyError("key"),
        RuntimeError(),
        StopIteration(4),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        FileNotFoundError(2, "No such cage"),
        FileNotFoundError(2, "No such cage", "/zoo/cage"),
        PermissionError(1, "Not allowed", b"/zoo/cage"),
        FileExistsError(17, "Is there", "/one", None, "/other"),
        OSError("of one text"),
        gym.error.InvalidAction("no"),
        gym.error.ResetNeeded("reset first"),
        gym.error.AlreadyPendingCallError("waiting", "step"),
        UserWarning("careful"),
    ],
    ids=repr,
)
def test_known_classes_keep_type_arguments_and_text(error: Exception) -> None:
    back = roundtrip(raised(error))
    assert type(back) is type(error)
    assert back.args == error.args
    assert str(back) == str(error)
    assert isinstance(back.__cause__, errors.EnvironmentFailed)
    assert "in raised" in back.__cause__.traceback
    assert back.__cause__.exception_type == f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, OSError):
        assert isinstance(back, OSError)
        assert (back.filename, back.filename2) == (error.filename, error.filename2)


class OwnError(KeyError):
    """Imported by nobody's client."""


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (OwnError("x"), f"{__name__}.OwnError"),
        (SystemExit(3), "builtins.SystemExit"),
        (KeyboardInterrupt(), "builtins.KeyboardInterrupt"),
        (ValueError(object()), "builtins.ValueError"),
        (ExceptionGroup("several", [ValueError("one")]), "builtins.ExceptionGroup"),
    ],
    ids=["own", "exit", "interrupt", "args", "group"],
)
def test_any_other_is_environment_failed(error: BaseException, name: str) -> None:
    back = roundtrip(raised(error))
    assert type(back) is errors.EnvironmentFailed
    assert back.exception_type == name
    assert back.message.startswith(type(error).__name__)
    assert "in raised" in str(back)
    assert back.infrastructure is False


@pytest.mark.parametrize(
    "name",
    [
        "builtins.SystemExit",
        "builtins.KeyboardInterrupt",
        "builtins.BaseException",
        "builtins.eval",
        "builtins.print",
        "builtins.type",
        "builtins.__import__",
        "builtins.__loader__",
        "builtins.nothing",
        "os.system",
        "os.error",
        "gymnasium.error.gym",
        "gymnasium.error",
        "megaflow.errors.InvalidArgument",
        "ValueError",
        "__class__",
        ".ValueError",
        "",
    ],
)
def test_nothing_else_is_looked_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.setattr(os, "system", called.append)
    monkeypatch.setattr(builtins, "eval", called.append)
    message = pb.Error(
        kind="EnvironmentFailed", exception_type=name, exception_args=values.encode(("1",))
    )
    assert type(failures.from_message(message)) is errors.EnvironmentFailed
    assert called == []


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("builtins.ValueError", b"\xc1"),
        ("builtins.ValueError", b"\x05"),
        ("builtins.ValueError", values.encode("text")),
        ("builtins.ValueError", b""),
        ("builtins.UnicodeDecodeError", values.encode(("too few",))),
        ("builtins.ExceptionGroup", values.encode(("empty", []))),
        ("builtins.UnicodeDecodeError", values.encode(("utf-8", b"", 2**70, 1, "x"))),
    ],
)
def test_arguments_that_the_class_does_not_take(name: str, args: bytes) -> None:
    message = pb.Error(
        kind="EnvironmentFailed", message="m", exception_type=name, exception_args=args
    )
    back = failures.from_message(message)
    assert type(back) is errors.EnvironmentFailed
    assert back.exception_type == name


@given(
    st.builds(
        pb.Error,
        kind=st.just("EnvironmentFailed"),
        exception_type=st.text(st.characters(exclude_categories=["Cs"])),
        exception_args=st.binary(),
    )
)
def test_whatever_comes_is_an_exception(message: pb.Error) -> None:
    assert isinstance(failures.from_message(message), Exception)


def test_notes_come_along() -> None:
    error = ValueError("x")
    error.add_note("the action 7 is not in Discrete(2)")
    assert roundtrip(error).__notes__ == ["the action 7 is not in Discrete(2)"]


def test_texts_that_no_wire_takes_are_escaped() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    mute = roundtrip(Mute())
    assert "Mute.__str__ raised RuntimeError" in str(mute)
    odd = ValueError("/zoo/\udcff")
    vars(odd)["__notes__"] = [3, "\udcff"]
    back = roundtrip(odd)
    assert type(back) is errors.EnvironmentFailed
    assert back.message == "ValueError: /zoo/\\udcff"
    assert back.__notes__ == ["3", "\\udcff"]


def test_the_cause_is_printed_with_the_exception() -> None:
    text = "".join(traceback.format_exception(roundtrip(raised(ValueError("bent")))))
    assert "Remote traceback:" in text
    assert "in raised" in text


# ---------------------------------------------------------------- beside a status


class Failed(grpc.RpcError, grpc.Call):
    """A failed call that says what it is told to."""

    def __init__(self, code: grpc.StatusCode, metadata: Any = ()) -> None:
        self._code, self._metadata = code, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "details"

    def trailing_metadata(self) -> Any:
        return self._metadata

    def initial_metadata(self) -> Any:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False


def test_a_servers_own_error_comes_before_the_status() -> None:
    message = failures.to_message(errors.NotFound("no such thing"))
    assert failures.status_of(message) is grpc.StatusCode.NOT_FOUND
    call = Failed(grpc.StatusCode.UNKNOWN, failures.to_metadata(message))
    error = failures.from_rpc_error(call, "host:1")
    assert type(error) is errors.NotFound
    assert str(error) == "no such thing"


@pytest.mark.parametrize("metadata", [(), None, ((failures.METADATA_KEY, b"\xff\xff\xff"),)])
def test_a_status_alone_names_the_address(metadata: Any) -> None:
    error = failures.from_rpc_error(Failed(grpc.StatusCode.UNAVAILABLE, metadata), "host:1")
    assert type(error) is errors.Unavailable
    assert str(error) == "host:1: UNAVAILABLE: details"


def test_long_texts_are_cut_to_what_metadata_holds() -> None:
    error = ValueError("b" * 100_000)
    for number in range(1000):
        error.add_note(f"{number}: " + "n" * 1000)
    message = failures.to_message(error, log_tail="l" * 100_000 + "end")
    message.traceback = "first line" + "t" * 100_000 + "last line"
    message.exception_type = "x" * 100_000
    ((key, data),) = failures.to_metadata(message)
    assert key.endswith("-bin")
    # Four texts of 4,000 characters and the exception's arguments; base64 and gRPC's 128 KiB leave room.
    assert len(data) < 30_000
    back = failures.from_message(pb.Error.FromString(data))
    assert isinstance(back, errors.EnvironmentFailed)
    assert back.message.startswith("ValueError: bbb")
    assert back.traceback.endswith("last line")
    assert "first line" not in back.traceback
    assert back.log_tail.endswith("end")
    assert back.__notes__[0].startswith("0: nnn")
    # The message itself is not touched: streams have room.
    assert len(message.notes) == 1000
