"""The kind `transformers`, with a tiny model of random weights and a tokenizer of bytes."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from megaflow.calls import rows
from megaflow.errors import InvalidArgument, Unavailable
from megaflow.generation import Completion, Message, Request, Sampling, Text, TextDelta, Tool
from model_rig import gateway

pytestmark = pytest.mark.requires("transformers")

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer_of_bytes() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {each: n for n, each in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    whole = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    whole.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="<|end|>")
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>"]}
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny(seed: int = 0) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=None,
        # Far from even, so that a wrong log-prob is far from the right one.
        initializer_range=0.6,
    )
    return LlamaForCausalLM(config)


def model(seed: int = 0, **more: Any) -> Any:
    from megaflow_adapters.models.transformers import TransformersModel

    return TransformersModel(tiny(seed), tokenizer_of_bytes(), **more)


def ask(text: str = "hi", **sampling: Any) -> Request:
    sampling = {"max_tokens": 12, **sampling}
    return Request("m", (Message("user", (Text(text),)),), sampling=Sampling(**sampling))


def confirmed(answer: Completion, weights: Any) -> None:
    """The log-probs are those of a forward pass over all of it, without batch, padding and cache."""
    import torch

    assert answer.prompt_token_ids is not None
    assert answer.token_ids is not None
    assert answer.logprobs is not None
    with torch.inference_mode():
        logits = weights(torch.tensor([answer.prompt_token_ids + answer.token_ids])).logits[0]
    places = range(len(answer.prompt_token_ids) - 1, len(logits) - 1)
    expected = torch.log_softmax(logits.float(), -1)
    for place, token, logprob in zip(places, answer.token_ids, answer.logprobs, strict=True):
        assert abs(float(expected[place, token]) - logprob) < 1e-4


async def test_log_probs_are_those_of_a_separate_forward_pass() -> None:
    served = model()
    prompts = [ask("x" * n, max_tokens=1 + n % 7, seed=n) for n in range(1, 30, 3)]
    prompts += [ask(temperature=0), ask(temperature=0.3, top_p=0.9), ask(top_k=3, min_p=0.01)]
    # One batch, of prompts and answers of many lengths.
    answers = await asyncio.gather(*(served.generate(each) for each in prompts))
    await served.close()
    for request, answer in zip(prompts, answers, strict=True):
        confirmed(answer, tiny())
        assert answer.usage is not None
        assert answer.usage.completion_tokens == len(answer.token_ids or ())
        assert len(answer.token_ids or ()) <= (request.sampling.max_tokens or 0)
        assert set(answer.weight_versions or ()) == {0}


async def test_what_is_sampled_does_not_depend_on_who_else_asks() -> None:
    served = model()
    requests = [ask(f"number {n}", seed=n, max_tokens=8) for n in range(9)]
    alone = [await served.generate(each) for each in requests]
    together = await asyncio.gather(*(served.generate(each) for each in requests))
    await served.close()
    assert [each.token_ids for each in together] == [each.token_ids for each in alone]
    assert len({each.token_ids for each in alone}) > 1


async def test_calls_that_come_at_once_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from megaflow_adapters.models import decoding
    from megaflow_adapters.models import transformers as module

    sizes: list[int] = []
    plain = decoding.generate

    def counted(weights: Any, batch: Any) -> None:
        sizes.append(len(batch))
        plain(weights, batch)

    monkeypatch.setattr(module, "generate", counted)
    served = model(max_batch=4)
    await asyncio.gather(*(served.generate(ask(str(n))) for n in range(9)))
    await served.close()
    assert sizes == [4, 4, 1]


async def test_a_greedy_answer_is_the_likeliest_token_each_time() -> None:
    import torch

    served, weights = model(), tiny()
    answer = await served.generate(ask(temperature=0, max_tokens=6))
    await served.close()
    ids = list(answer.prompt_token_ids or ())
    for token in answer.token_ids or ():
        with torch.inference_mode():
            assert int(weights(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


async def test_text_is_what_the_tokens_say_and_ends_where_it_should() -> None:
    served, tokenizer = model(), tokenizer_of_bytes()
    whole = await served.generate(ask(seed=3, max_tokens=60, top_k=200))
    said = tokenizer.decode(whole.token_ids, skip_special_tokens=True)
    assert (whole.text, whole.finish_reason) == (said, "length")
    stop = said[5:8]
    cut = await served.generate(ask(seed=3, max_tokens=60, top_k=200, stop=(stop, "never there")))
    assert cut.text == said[: said.index(stop)]
    assert (cut.finish_reason, cut.stop_sequence) == ("stop", stop)
    assert (whole.token_ids or ())[: len(cut.token_ids or ())] == cut.token_ids
    pieces = [
        event.text
        async for event in served.stream(ask(seed=3, max_tokens=60, top_k=200))
        if isinstance(event, TextDelta)
    ]
    assert len(pieces) > 10
    assert "".join(pieces) == said
    await served.close()


async def test_new_weights_have_a_new_version_and_no_batch_has_two() -> None:
    served = model()
    before = asyncio.create_task(served.generate(ask(seed=1, max_tokens=40)))
    await asyncio.sleep(0)
    await served.update_weights(1, tiny(seed=9).state_dict())
    after = await served.generate(ask(seed=1))
    old = await before
    assert set(after.weight_versions or ()) == {1}
    confirmed(after, tiny(seed=9))
    assert set(old.weight_versions or ()) in ({0}, {1})
    confirmed(old, tiny(seed=9 if 1 in (old.weight_versions or ()) else 0))
    with pytest.raises(InvalidArgument, match="state: "):
        await served.update_weights(2, {"none.of.it": None})
    await served.close()


async def test_a_conversation_through_the_gateway_gives_a_row() -> None:
    served = model()
    async with gateway() as rig:
        token = rig.open({"policy": served})
        said: list[dict[str, str]] = [{"role": "user", "content": "hello"}]
        for _ in range(2):
            body = {"model": "policy", "messages": said, "max_tokens": 5, "seed": 4, "top_k": 60}
            status, answer, _ = await rig.post("/v1/chat/completions", body, token)
            assert status == 200
            said += [answer["choices"][0]["message"], {"role": "user", "content": "go on"}]
        found = rows(rig.records["r"])
        assert sum(sum(row.loss_mask) for row in found) == 10
        assert all(row.logprobs is not None and row.weight_versions is not None for row in found)
    await served.close()


async def test_a_prompt_of_ids_goes_as_it_is_and_room_is_kept_to() -> None:
    served = model()
    ids = tuple(range(40, 70))
    answer = await served.generate(Request("m", prompt=ids, sampling=Sampling(max_tokens=3)))
    assert answer.prompt_token_ids == ids
    most = await served.generate(Request("m", prompt=ids, sampling=Sampling(max_tokens=9999)))
    assert len(most.token_ids or ()) == 128 - 30
    with pytest.raises(InvalidArgument, match="128 tokens; this model has room for 128"):
        await served.generate(Request("m", prompt=(5,) * 128))
    with pytest.raises(InvalidArgument, match="is empty"):
        await served.generate(Request("m", prompt=()))
    await served.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tools": (Tool("t"),)}, "tools: "),
        ({"response_format": {"type": "json_object"}}, "response_format: "),
        ({"sampling": Sampling(presence_penalty=1.0)}, "presence_penalty: "),
        ({"extra": {"best_of": 2}}, "best_of: "),
    ],
)
async def test_what_it_does_not_have_is_refused(change: dict[str, Any], says: str) -> None:
    served = model()
    with pytest.raises(InvalidArgument, match=says):
        await served.generate(dataclasses.replace(ask(), **change))
    await served.close()


async def test_who_goes_away_holds_nobody_up() -> None:
    served = model(max_batch=1)
    long = Request("m", prompt=(5,), sampling=Sampling(max_tokens=9999))
    gone = [asyncio.create_task(served.generate(long)) for _ in range(50)]
    await asyncio.sleep(0.05)
    for task in gone:
        task.cancel()
    answer = await asyncio.wait_for(served.generate(ask(max_tokens=1)), 20)
    assert len(answer.token_ids or ()) == 1
    await served.close()


async def test_closing_ends_what_waits_and_what_is_under_way() -> None:
    served = model(max_batch=1)
    calls = [asyncio.create_task(served.generate(ask(max_tokens=100))) for _ in range(3)]
    await asyncio.sleep(0.02)
    await served.close()
    for ended in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(ended, Completion | Unavailable)
    assert isinstance(ended, Unavailable)


async def test_a_table_names_a_folder(tmp_path: Path) -> None:
    from megaflow_server.models.catalogue import made
    from megaflow_server.models.tables import ModelTable

    tiny().save_pretrained(tmp_path / "tiny")
    tokenizer_of_bytes().save_pretrained(tmp_path / "tiny")
    raw = {"kind": "transformers", "model": str(tmp_path / "tiny"), "weight_version": 7}
    served = made({"m": ModelTable.model_validate(raw)})["m"].model
    answer = await served.generate(ask(temperature=0))
    await served.close()
    confirmed(answer, tiny())
    assert set(answer.weight_versions or ()) == {7}
    (tmp_path / "empty").mkdir()
    raw["model"] = str(tmp_path / "empty")
    with pytest.raises(InvalidArgument, match=r"models\.m\.model: .*cannot be loaded"):
        made({"m": ModelTable.model_validate(raw)})
