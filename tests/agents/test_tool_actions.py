"""Actions of any space as JSON, and observations as a model is shown them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from megaflow.generation import Image, Text
from megaflow.trajectory import png
from megaflow_adapters.agents.tool.actions import action_of, schema_of, shown
from megaflow_adapters.agents.tool.toolset import Misused

SPACES: list[gym.Space[Any]] = [
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(4),
    spaces.Box(-1, 1, (2, 2), np.float32),
    spaces.Box(0, 255, (3,), np.uint8),
    spaces.Text(5),
    spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Tuple([spaces.Discrete(2), spaces.Text(3)])}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_members_come_back_from_json(space: gym.Space[Any]) -> None:
    space.seed(3)
    for _ in range(20):
        member = space.sample()
        plain = json.loads(json.dumps(member, default=lambda part: part.tolist()))
        again = action_of(space, plain)
        assert space.contains(again)
        np.testing.assert_equal(again, member)
    json.dumps(schema_of(space))


@pytest.mark.parametrize("space", SPACES, ids=str)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda part: (
            st.lists(part, max_size=4) | st.dictionaries(st.sampled_from("abc"), part, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_whatever_is_given_is_a_member_or_refused(space: gym.Space[Any], value: Any) -> None:
    with suppress(Misused):
        assert space.contains(action_of(space, value))


@pytest.mark.parametrize("value", [True, 1.5, "1", [1], 3, None])
def test_what_only_looks_like_a_number_is_none(value: Any) -> None:
    with pytest.raises(Misused, match="is not in Discrete"):
        action_of(spaces.Discrete(3), value)


def test_a_number_of_another_size_is_not_wrapped_around() -> None:
    with pytest.raises(Misused):
        action_of(spaces.Box(0, 255, (1,), np.uint8), [256])


def test_observations_are_text_images_or_json() -> None:
    frame = np.full((2, 3, 3), 7, np.uint8)
    found = shown("observation", {"screen": frame, "at": (np.int64(4), np.array([0.5, 1.0]))})
    heading, image, *rest = found
    assert heading == Text("observation.screen:")
    assert isinstance(image, Image)
    assert image.url.startswith("data:image/png;base64,")
    assert rest == [Text("observation.at[0]: 4"), Text("observation.at[1]: [0.5, 1.0]")]
    assert png.is_frame(frame)
    assert shown("observation", "as it is") == (Text("as it is"),)
    (cut,) = shown("observation", np.zeros(20_000))
    assert isinstance(cut, Text)
    assert "characters are left out" in cut.text
