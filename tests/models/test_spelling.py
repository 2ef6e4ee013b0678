"""Text from tokens as they come, against the text of all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from megaflow_adapters.models.spelling import Spelling

texts = st.text("abé🙂\ufffd", max_size=12)


def decoded(ids: list[int]) -> str:
    return bytes(ids).decode(errors="replace")


@given(texts)
def test_characters_come_whole_and_none_is_missing(text: str) -> None:
    spelling = Spelling(decoded, ())
    pieces = [spelling.add(token) for token in text.encode()]
    assert "".join(pieces) + spelling.rest() == text
    assert spelling.stopped is None


@given(texts, st.lists(st.text("abé", max_size=3), max_size=3))
def test_nothing_of_a_stop_sequence_is_said(text: str, stop: list[str]) -> None:
    spelling, said = Spelling(decoded, stop), ""
    for token in text.encode():
        said += spelling.add(token)
        if spelling.stopped is not None:
            break
    said += spelling.rest()
    # The shortest beginning that has one in it, without that one.
    wanted = [each for each in stop if each]
    for end in range(len(text) + 1):
        if found := [(text[:end].index(each), each) for each in wanted if each in text[:end]]:
            assert (said, spelling.stopped) == (text[: min(found)[0]], min(found)[1])
            return
    assert (said, spelling.stopped) == (text, None)
