"""Tables of models by what they are: none is taken for another, whatever became of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from megaflow.errors import InvalidArgument, NotFound
from megaflow_server.models.pins import named, pin, pinned, put
from megaflow_server.models.tables import ModelTable


def table(**settings: object) -> ModelTable:
    return ModelTable.model_validate({"kind": "openai", "model": "m", **settings})


def test_a_pin_stands_for_the_table_that_it_was_made_of(tmp_path: Path) -> None:
    price = {"input_per_million": 0.15, "output_per_million": 0.6}
    one, other = table(base_urls=["http://a/v1"], price=price), table(base_urls=["http://b/v1"])
    names = [pin("policy", one), pin("policy", other)]
    assert len({*names}) == 2
    assert [named(name) for name in names] == ["policy", "policy"]
    put(tmp_path / "models", [one, other])
    assert pinned(tmp_path / "models", [*names, "echo"]) == dict(
        zip(names, (one, other), strict=True)
    )
    assert named("echo") is None


def test_what_is_not_there_or_was_changed_is_refused(tmp_path: Path) -> None:
    name = pin("policy", table())
    with pytest.raises(NotFound, match="run the job anew, with -m policy"):
        pinned(tmp_path, [name])
    put(tmp_path, [table()])
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text().replace('"m"', '"n"'))
    with pytest.raises(InvalidArgument, match="was changed"):
        pinned(tmp_path, [name])
