"""gymnasium's own wrappers work over a remote vector environment as over a local one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import vector as wrappers

from zoo.lockstep import assert_same
from zoo.makers import MakeVec


def _drive(envs: Any, steps: int = 150) -> list[Any]:
    log = [envs.reset(seed=5)]
    envs.action_space.seed(5)
    log += [envs.step(envs.action_space.sample()) for _ in range(steps)]
    return log


@pytest.mark.parametrize(
    "wrap",
    [
        lambda envs: wrappers.NormalizeObservation(envs),
        lambda envs: wrappers.FlattenObservation(envs),
        lambda envs: wrappers.RescaleObservation(envs, np.float32(-1), np.float32(1)),
        lambda envs: wrappers.ClipReward(envs, -0.5, 0.5),
        lambda envs: wrappers.NormalizeReward(envs),
    ],
    ids=["NormalizeObservation", "Flatten", "Rescale", "ClipReward", "NormalizeReward"],
)
def test_transforming_wrappers(wrap: Any, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    logs: list[Any] = [_drive(wrap(make("zoo/Counter-v0", 3))) for make in (local_vec, remote_vec)]
    for position, (one, other) in enumerate(zip(*logs, strict=True)):
        assert_same(one, other, f"result {position}")


def test_infos_as_a_list_of_dicts(remote_vec: MakeVec, local_vec: MakeVec) -> None:
    logs: list[Any] = [
        _drive(wrappers.DictInfoToList(make("zoo/Counter-v0", 3)))
        for make in (local_vec, remote_vec)
    ]
    for position, (one, other) in enumerate(zip(*logs, strict=True)):
        assert_same(one, other, f"result {position}")


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_episode_statistics(mode: str, remote_vec: MakeVec, local_vec: MakeVec) -> None:
    """Their "t" is the time that an episode took, which alone may differ."""
    logs: list[Any] = []
    for make in (local_vec, remote_vec):
        envs = wrappers.RecordEpisodeStatistics(make("CartPole-v1", 3, autoreset_mode=mode))
        log = _drive(envs)
        for *_, infos in log:
            if "episode" in infos:
                del infos["episode"]["t"]
        logs.append((log, list(envs.return_queue), list(envs.length_queue)))
    assert len(logs[0][1]) > 10
    assert_same(logs[0], logs[1], "statistics")


@pytest.mark.requires("pygame")
def test_human_rendering_of_a_vector(remote_vec: MakeVec) -> None:
    pygame = pytest.importorskip("pygame")
    pytest.importorskip("cv2")

    envs = wrappers.HumanRendering(remote_vec("zoo/Rendering-v0", 2, render_mode="rgb_array"))
    envs.reset(seed=1)
    envs.step(np.array([0, 1]))
    assert envs.render_mode == "human"
    assert envs.window is not None
    # The step is drawn as a stripe: both sub-environments stand in column 1 of their 12.
    pixels = pygame.surfarray.array3d(envs.window)
    assert pixels.any()


@pytest.mark.requires("moviepy")
def test_videos_of_a_vector(remote_vec: MakeVec, tmp_path: Path) -> None:
    envs: Any = wrappers.RecordVideo(
        remote_vec("zoo/Rendering-v0", 2, render_mode="rgb_array"),
        str(tmp_path / "videos"),
        episode_trigger=lambda episode: True,
    )
    _drive(envs, 12)
    envs.close()
    videos = sorted((tmp_path / "videos").glob("*.mp4"))
    assert len(videos) >= 2
    assert all(video.stat().st_size > 0 for video in videos)


def test_frames_for_a_video_of_one_sub_environment_each_step(
    remote_vec: MakeVec, local_vec: MakeVec
) -> None:
    """What a recorder does: render after reset and after each step, over autoresets."""
    logs: list[Any] = []
    for make in (local_vec, remote_vec):
        envs = make("zoo/Rendering-v0", 2, render_mode="rgb_array")
        envs.reset(seed=1)
        frames = [envs.render()]
        for _ in range(12):
            envs.step(np.array([1, 1]))
            frames.append(envs.render())
        logs.append(frames)
    assert_same(logs[0], logs[1], "frames")
    assert len({frame[0].tobytes() for frame in logs[1]}) > 4


def test_wrappers_that_look_into_metadata_accept_it(remote_vec: MakeVec) -> None:
    """`NormalizeObservation` refuses SAME_STEP by looking at `metadata["autoreset_mode"]`."""
    envs = remote_vec("CartPole-v1", 2, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
    with pytest.raises((ValueError, AssertionError)):
        wrappers.NormalizeObservation(envs)
