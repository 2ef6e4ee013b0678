from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaflow.calls import Branches, CallRecord, Row, rows
from megaflow.errors import FailedPrecondition, InvalidArgument


def recorded(
    branches: Branches, number: int, prompt: list[int], made: list[int], start: int = 0
) -> CallRecord:
    """A call as the gateway records it; each generated token has a log-prob and a version of its own."""
    place = branches.place(str(number), prompt, made)
    return CallRecord(
        rollout_id="r",
        group_id="g",
        call_id=str(number),
        branch=place.branch,
        parent=place.parent,
        response={"role": "assistant", "content": ""},
        prompt_token_ids=prompt,
        completion_token_ids=made,
        logprobs=[-float(start + n) for n in range(len(made))],
        loss_mask=[1] * len(made),
        weight_versions=[start + n for n in range(len(made))],
        finish_reason="stop",
    )


@dataclass
class Drawn:
    prompt: list[int]
    made: list[int]


# Few token ids, so that calls come to share prefixes by chance too.
ids = st.lists(st.integers(0, 2), max_size=4)


@st.composite
def conversations(draw: st.DrawFn) -> list[Drawn]:
    """Calls that go on from any earlier one, from a cut of it, from a changed one, or from nothing."""
    calls: list[Drawn] = []
    for _ in range(draw(st.integers(0, 12))):
        base: list[int] = []
        goes_on: bool = draw(st.booleans())
        if calls and goes_on:
            earlier = calls[draw(st.integers(0, len(calls) - 1))]
            base = earlier.prompt + earlier.made
            if draw(st.integers(0, 2)) == 0:
                base = base[: draw(st.integers(0, len(base)))]
            if base and draw(st.integers(0, 4)) == 0:
                at = draw(st.integers(0, len(base) - 1))
                base = [*base[:at], base[at] + 1, *base[at + 1 :]]
        calls.append(Drawn(base + draw(ids), draw(ids)))
    return calls


def in_order(calls: list[Drawn]) -> list[CallRecord]:
    branches, start, out = Branches(), 0, []
    for number, call in enumerate(calls):
        out.append(recorded(branches, number, call.prompt, call.made, start))
        start += len(call.made)
    return out


def unmasked(row: Row) -> list[tuple[int, float, object]]:
    assert row.logprobs is not None
    assert row.weight_versions is not None
    lengths = {
        len(row.token_ids),
        len(row.loss_mask),
        len(row.logprobs),
        len(row.weight_versions),
    }
    assert len(lengths) == 1
    found: list[tuple[int, float, object]] = []
    for token, mask, logprob, version in zip(
        row.token_ids, row.loss_mask, row.logprobs, row.weight_versions, strict=True
    ):
        if mask:
            found.append((token, logprob, version))
        else:
            assert (logprob, version) == (0.0, None)
    return found


@given(conversations())
def test_rows_hold_every_generated_token_once_and_unmask_no_other(calls: list[Drawn]) -> None:
    records = in_order(calls)
    generated = [
        (token, -float(n), n)
        for n, token in enumerate(token for call in calls for token in call.made)
    ]
    out = rows(records)
    # Versions number the tokens, so that being found once is being found under one's own log-prob.
    found = sorted((each for row in out for each in unmasked(row)), key=lambda each: str(each[2]))
    assert found == sorted(generated, key=lambda each: str(each[2]))
    assert len(out) == len({record.branch for record in records})


@given(conversations())
def test_each_call_stands_in_its_row_as_the_engine_saw_it(calls: list[Drawn]) -> None:
    records = {record.call_id: record for record in in_order(calls)}
    for row in rows(records.values()):
        for call_id in row.calls:
            record = records[call_id]
            whole = [*(record.prompt_token_ids or ()), *(record.completion_token_ids or ())]
            assert row.token_ids[: len(whole)] == whole
        assert row.rollout_id == "r"
        assert row.group_id == "g"


def test_a_conversation_that_goes_on_is_one_row() -> None:
    branches = Branches()
    calls = [
        recorded(branches, 0, [1, 2], [3], 0),
        recorded(branches, 1, [1, 2, 3, 4], [5, 6], 1),
    ]
    (row,) = rows(calls, reward=0.5)
    assert row.token_ids == [1, 2, 3, 4, 5, 6]
    assert row.loss_mask == [0, 0, 1, 0, 1, 1]
    assert row.logprobs == [0.0, 0.0, -0.0, 0.0, -1.0, -2.0]
    assert row.weight_versions == [None, None, 0, None, 1, 2]
    assert (row.prompt_length, row.reward, row.calls) == (2, 0.5, ("0", "1"))
    assert calls[1].parent == "0"


def test_a_prompt_that_changes_what_was_said_is_another_row() -> None:
    branches = Branches()
    calls = [recorded(branches, 0, [1, 2], [3]), recorded(branches, 1, [1, 9, 3, 4], [5])]
    first, second = rows(calls)
    assert (first.branch, second.branch) == (0, 1)
    assert second.loss_mask == [0, 0, 0, 0, 1]
    assert calls[1].parent is None


def test_two_answers_to_one_prompt_are_two_rows() -> None:
    branches = Branches()
    calls = [recorded(branches, 0, [1], [2]), recorded(branches, 1, [1], [2])]
    assert [row.token_ids for row in rows(calls)] == [[1, 2], [1, 2]]


def test_an_unscored_rollout_has_no_reward() -> None:
    (row,) = rows([recorded(Branches(), 0, [1], [2])])
    assert row.reward is None


def test_other_roles_and_calls_that_failed_give_no_rows() -> None:
    grader = replace(recorded(Branches(), 0, [1], [2]), role="grader")
    failed = CallRecord(rollout_id="r", call_id="f", status=503, error="gone")
    assert rows([grader, failed]) == []


def test_a_call_without_token_ids_is_refused() -> None:
    record = CallRecord(rollout_id="r", call_id="c7", response={"content": "text"})
    with pytest.raises(FailedPrecondition, match=r"c7.*never tokenised again"):
        rows([record])


def test_log_probs_that_one_call_lacks_are_none_for_its_row() -> None:
    branches = Branches()
    calls = [recorded(branches, 0, [1], [2]), recorded(branches, 1, [1, 2], [3])]
    (row,) = rows([calls[0], replace(calls[1], logprobs=None)])
    assert row.logprobs is None
    assert row.weight_versions == [None, 0, 0]


def test_records_out_of_order_are_refused() -> None:
    branches = Branches()
    calls = [recorded(branches, 0, [1], [2]), recorded(branches, 1, [1, 2, 3], [4])]
    with pytest.raises(InvalidArgument, match="in the order they were written"):
        rows(reversed(calls))


def test_attempts_do_not_share_rows() -> None:
    first = recorded(Branches(), 0, [1], [2])
    second = replace(recorded(Branches(), 1, [5], [6]), attempt=1)
    assert [row.token_ids for row in rows([first, second])] == [[1, 2], [5, 6]]


def test_a_record_goes_to_a_dict_and_back() -> None:
    record = recorded(Branches(), 0, [1], [2])
    assert CallRecord.from_dict(record.to_dict()) == record


def test_a_record_of_another_schema_is_refused() -> None:
    raw = recorded(Branches(), 0, [1], [2]).to_dict()
    with pytest.raises(InvalidArgument, match="schema_version 2"):
        CallRecord.from_dict({**raw, "schema_version": 2})
    with pytest.raises(InvalidArgument, match="no field 'colour'"):
        CallRecord.from_dict({**raw, "colour": 1})


def test_log_probs_of_another_length_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="logprobs has 2 entries for 1"):
        replace(recorded(Branches(), 0, [1], [2]), logprobs=[0.0, 0.0])
