"""Errors answer: may I try again, what does the command line end with, what are the facts. And they pickle."""

from __future__ import annotations

import copy
import errno
import inspect
import pickle
from typing import Any

import pytest

from cfn import errors
from cfn.errors import CfnError, Exit

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, CfnError)]

#: The whole table: error -> (exit code, is a retry safe, kin in the standard library).
TABLE: dict[str, tuple[int, str, tuple[type[BaseException], ...]]] = {
    "CfnError": (1, "unsafe", ()),
    "UsageError": (2, "unsafe", (ValueError,)),
    "BadAgentId": (2, "unsafe", (ValueError,)),
    "BadMessage": (2, "unsafe", (ValueError,)),
    "MessageTooLarge": (2, "unsafe", (ValueError,)),
    "TaskError": (2, "unsafe", (ValueError,)),
    "AgentError": (1, "unsafe", (LookupError,)),
    "AgentGone": (3, "unsafe", (LookupError,)),
    "AgentExists": (1, "unsafe", (LookupError,)),
    "Fenced": (1, "unsafe", (LookupError,)),
    "LeaseLost": (3, "unsafe", ()),
    "InboxFull": (6, "safe", (TimeoutError,)),
    "NoReply": (1, "unknown", (TimeoutError,)),
    "BusFull": (6, "safe", (OSError,)),
    "UnfitPlace": (5, "unsafe", (OSError,)),
    "UnfitHost": (5, "unsafe", ()),
    "FormatError": (5, "unsafe", ()),
    "RunError": (1, "unsafe", ()),
    "NoSuchRun": (3, "unsafe", ()),
}
FACTS: dict[str, Any] = {"agent": "bob", "depth": 5, "path": "/x", "size_bytes": 7, "found": None, "line": 3}


def test_the_exit_codes_are_the_published_table() -> None:
    assert {code.name: code.value for code in Exit} == {
        "OK": 0, "ERROR": 1, "USAGE": 2, "NOT_FOUND": 3, "PARTIAL": 4, "UNFIT": 5, "FULL": 6, "INTERRUPTED": 130,
    }  # fmt: skip


def test_no_error_is_missing_from_the_table() -> None:
    assert {kind.__name__ for kind in ALL} == set(TABLE)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_each_error_has_its_exit_code_its_answer_and_its_kin(kind: type[CfnError]) -> None:
    exit_code, retry, kin = TABLE[kind.__name__]
    assert (kind.exit_code, kind.retry) == (exit_code, retry)
    assert isinstance(kind.exit_code, Exit)
    for parent in kin:
        assert issubclass(kind, parent)
    assert kind.__doc__


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deep"]
)
def test_each_error_survives_with_its_facts(kind: type[CfnError], copied: Any) -> None:
    error = copied(kind("what happened", **FACTS))
    assert type(error) is kind
    assert str(error) == error.message == "what happened"
    assert error.facts == FACTS
    for name, value in FACTS.items():
        assert getattr(error, name) == value, f"the fact {name!r} is hidden"


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_a_fact_that_was_not_given_is_an_attribute_error(kind: type[CfnError]) -> None:
    error = kind("what happened")
    assert error.facts == {}
    with pytest.raises(AttributeError):
        _ = error.agent
    assert not hasattr(error, "nothing")


def test_an_error_without_facts_prints_only_its_message() -> None:
    assert str(errors.BusFull("no room", errno=errno.ENOSPC)) == "no room"
    assert errors.BusFull("no room", errno=errno.ENOSPC).errno == errno.ENOSPC


def test_errors_can_be_caught_as_what_they_are_in_the_standard_library() -> None:
    with pytest.raises(TimeoutError):
        raise errors.InboxFull("full", agent="bob", depth=3)
    with pytest.raises(LookupError):
        raise errors.AgentGone("gone", agent="bob")
    with pytest.raises(OSError, match="no place"):
        raise errors.UnfitPlace("no place", path="/x")
