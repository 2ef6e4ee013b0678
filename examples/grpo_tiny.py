"""Trains a tiny transformer by GRPO: environments, agents and models behind a server, the trainer here.

The task: a letter is shown, and the next letters of the alphabet are wanted; the reward is the share of them that is
right. The transformer begins with random weights, so that whatever it can do in the end it has learnt from rollouts.
Groups of rollouts stream out of `client.rollouts`, an update is a few clipped policy gradient steps on their rows, and
the next answers are the new weights'. Says, for each seed, how the mean reward rose, writes curve.csv and curve.png,
and has exit status 1 unless it has risen with most seeds. Needs the extras server, transformers and report.

    python examples/grpo_tiny.py --out /tmp/grpo
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import json
import math
import os
import re
import signal
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym

import megaflow
from megaflow.calls import Row
from megaflow.generation import Event, Request, Sampling
from megaflow.groups import RolloutGroup
from megaflow.model import Model

LETTERS = string.ascii_lowercase[:8]
ANSWER = 3
# What answers that are drawn evenly score.
CHANCE = 1 / len(LETTERS)
# Rollouts of a group, groups of an update, and steps that are taken on them.
GROUP, GROUPS, STEPS = 16, 8, 4
# About that of the rewards at the beginning.
SPREAD = 0.25
# Updates at the end whose rewards count, and how many standard errors above chance their mean has to be.
LAST, ERRORS = 5, 5.0
# Where server and runner, which import this file, find the model's size and its weights.
FOLDER = "MEGAFLOW_EXAMPLE_FOLDER"


class NextLetters(gym.Env[str, str]):
    """Shows a letter; the one action is to say those that come next, after the last one the first again."""

    observation_space = gym.spaces.Text(1, charset=LETTERS)
    action_space = gym.spaces.Text(ANSWER, charset=LETTERS)

    def __init__(self, letter: str) -> None:
        self.letter = letter

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return self.letter, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        first = LETTERS.index(self.letter) + 1
        wanted = [LETTERS[(first + place) % len(LETTERS)] for place in range(ANSWER)]
        right = sum(said == letter for said, letter in zip(action, wanted, strict=True))
        return self.letter, right / ANSWER, True, False, {}


class Speller(megaflow.Agent):
    """Asks the model once, and says what it says."""

    roles = ("policy",)

    async def run(
        self, task: megaflow.AgentTask, env: megaflow.AgentEnv, models: Mapping[str, Model]
    ) -> None:
        letter, _ = await env.reset()
        sampling = Sampling(max_tokens=ANSWER, seed=task.seed)
        asked = Request(model="policy", prompt=(LETTERS.index(letter),), sampling=sampling)
        completion = await models["policy"].generate(asked)
        await env.step(completion.text)


class Policy(Model):
    """The model of a runner's process, with the trainer's newest weights."""

    name = "tiny"

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        served, loading = _served()
        folder = Path(os.environ[FOLDER])
        async with loading:
            version = int((folder / "version").read_text())
            if version != served.weight_version:
                await served.update_weights(version, _loaded(folder / f"{version}.pt"))
        async with aclosing(served.stream(request)) as events:
            async for event in events:
                yield event


@cache
def _served() -> tuple[Any, asyncio.Lock]:
    from megaflow_adapters.models.transformers import TransformersModel

    model = transformer(json.loads((Path(os.environ[FOLDER]) / "size.json").read_text()))
    return TransformersModel(model, Alphabet(), max_batch=GROUP * GROUPS), asyncio.Lock()


def _loaded(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


class Alphabet:
    """A tokenizer: each letter is a token."""

    eos_token_id = None
    chat_template = None

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return "".join(LETTERS[each] for each in ids)


def transformer(size: Mapping[str, Any]) -> Any:
    """A causal language model with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(LETTERS),
        hidden_size=size["hidden"],
        intermediate_size=2 * size["hidden"],
        num_hidden_layers=size["layers"],
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).to(size["device"])


gym.register("examples/NextLetters-v0", f"{__name__}:NextLetters")
megaflow.register_agent("speller", Speller)
megaflow.register_model("tiny", Policy)


@dataclass
class Point:
    """An update. Attributes: rewards: of its rollouts; version: of the weights that came of it."""

    seed: int
    version: int
    rewards: list[float]
    seconds: float

    @property
    def mean(self) -> float:
        return sum(self.rewards) / len(self.rewards)


class Trainer:
    """The model that is trained, and where its weights are left for the runner."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self.version = -1
        self._folder = folder
        self._arguments = arguments
        size = {name: getattr(arguments, name) for name in ("hidden", "layers", "device")}
        (folder / "size.json").write_text(json.dumps(size))
        self._size = size

    def begin(self, seed: int) -> None:
        """New random weights."""
        import torch

        torch.manual_seed(seed)
        self._model = transformer(self._size)
        rate = self._arguments.learning_rate
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=rate)
        self._publish()

    def update(self, groups: Sequence[RolloutGroup]) -> list[float]:
        """Steps of GRPO on the rows of these groups; their rewards."""
        import torch

        rows: list[Row] = []
        advantages: list[float] = []
        for group in groups:
            found = group.rows()
            rewards = [row.reward for row in found if row.reward is not None]
            mean = sum(rewards) / len(rewards)
            rows += found
            # Not over the group's own spread, which makes most of groups whose rewards hardly differ.
            advantages += [(one - mean) / SPREAD for one in rewards]
        device = self._size["device"]
        # All rows are of one length here: a letter, and an answer.
        tokens = torch.tensor([row.token_ids for row in rows], device=device)
        mask = torch.tensor([row.loss_mask for row in rows], device=device)[:, 1:]
        sampled = torch.tensor([row.logprobs for row in rows], device=device)[:, 1:]
        gain = torch.tensor(advantages, device=device)[:, None]
        for _ in range(STEPS):
            logits = self._model(tokens).logits[:, :-1]
            logprobs = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
            # How much likelier each token is than with the weights that it was sampled from.
            ratio = (logprobs - sampled).exp()
            surrogate = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
            loss = -(surrogate * mask).sum() / mask.sum()
            self._optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 0.5)
            self._optimizer.step()
        self._publish()
        return [row.reward for row in rows if row.reward is not None]

    def _publish(self) -> None:
        import torch

        torch.save(self._model.state_dict(), self._folder / f"{self.version + 1}.pt")
        # In one step, so that the runner reads the one number or the other.
        (self._folder / "new").write_text(str(self.version + 1))
        (self._folder / "new").replace(self._folder / "version")
        (self._folder / f"{self.version - 1}.pt").unlink(missing_ok=True)
        self.version += 1


def train(client: megaflow.Client, trainer: Trainer, seed: int, updates: int) -> list[Point]:
    """The updates of one seed."""
    trainer.begin(seed)
    points: list[Point] = []
    began = time.monotonic()
    tasks = (
        megaflow.Task("examples/NextLetters-v0", "speller", env_kwargs={"letter": letter})
        for letter in itertools.cycle(LETTERS)
    )
    rollouts = client.rollouts(
        tasks,
        models={"policy": "tiny"},
        group_size=GROUP,
        ahead=2 * GROUPS,
        version=lambda: trainer.version,
        max_staleness=2,
        seed=seed,
    )
    with rollouts as groups:
        for _ in range(updates):
            rewards = trainer.update([*itertools.islice(groups, GROUPS)])
            points.append(Point(seed, trainer.version, rewards, time.monotonic() - began))
            if len(points) % 10 == 0:
                print(f"seed {seed}, update {len(points):3}: mean reward {points[-1].mean:.3f}")
    return points


def rose(points: Sequence[Point]) -> bool:
    """Whether the last rewards are above chance by so many of their standard errors; says so."""
    rewards = [one for point in points[-LAST:] for one in point.rewards]
    mean = sum(rewards) / len(rewards)
    variance = sum((one - mean) ** 2 for one in rewards) / (len(rewards) - 1)
    error = max(math.sqrt(variance / len(rewards)), 1e-9)
    risen = mean > CHANCE + ERRORS * error
    print(
        f"seed {points[0].seed}: mean reward {points[0].mean:.3f} before, {mean:.3f} ± {error:.3f} after "
        f"{len(points)} updates in {points[-1].seconds:.0f} s; chance is {CHANCE:.3f}: "
        f"{'it has risen' if risen else 'it has not risen'}"
    )
    return risen


def write(points: Sequence[Point], out: Path) -> None:
    """The curve, as data and as a plot."""
    from matplotlib.figure import Figure

    out.mkdir(parents=True, exist_ok=True)
    with (out / "curve.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["seed", "update", "mean_reward", "seconds"])
        figure = Figure(figsize=(6, 4))
        axes = figure.subplots()
        for seed in dict.fromkeys(point.seed for point in points):
            own = [point for point in points if point.seed == seed]
            axes.plot([point.mean for point in own], label=f"seed {seed}")
            for number, point in enumerate(own):
                table.writerow([seed, number, f"{point.mean:.4f}", f"{point.seconds:.2f}"])
    axes.axhline(CHANCE, linestyle=":", color="black", label="chance")
    axes.set(xlabel="update", ylabel="mean reward", ylim=(0, 1.02))
    axes.legend()
    figure.savefig(out / "curve.png", dpi=120)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A server with a store and a runner, which import this file: its address. Ended on the way out."""
    here = Path(__file__)
    serve = [str(Path(sys.executable).with_name("megaflow")), "serve", "--listen", "127.0.0.1:0"]
    serve += ["--store", f"sqlite:///{folder}/tasks.db", "--workers", "1", "--import", here.stem]
    paths = [str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), FOLDER: str(folder)}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            serve,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environ,
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.match(r"Serving environments at (\S+)", line):
                    yield found[1]
                    return
            raise SystemExit(f"the server ended: {(folder / 'log').read_text()}")
        finally:
            process.terminate()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description="Trains a tiny transformer by GRPO.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=40, help="for each seed; default: 40")
    parser.add_argument("--hidden", type=int, default=64, help="of the transformer; default: 64")
    parser.add_argument("--layers", type=int, default=2, help="of the transformer; default: 2")
    parser.add_argument("--device", default="cpu", help="of trainer and model; default: cpu")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--out", type=Path, help="a folder for curve.csv and curve.png")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="megaflow-grpo-") as name:
        trainer = Trainer(Path(name), arguments)
        # The server's runner reads them as soon as it is asked.
        with server(Path(name)) as address, megaflow.Client(address) as client:
            curves = [train(client, trainer, seed, arguments.updates) for seed in arguments.seeds]
    if arguments.out is not None:
        write([point for curve in curves for point in curve], arguments.out)
    risen = [rose(curve) for curve in curves]
    return 0 if 2 * sum(risen) > len(risen) else 1


if __name__ == "__main__":
    # As Ctrl-C: the server is ended first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
