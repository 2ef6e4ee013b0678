"""Small deterministic environments, one for each thing that an environment may do.

What belongs here: environments (and one vector class) that need nothing but gymnasium and numpy, draw
all their randomness from `np_random`, and are registered below under the namespace "zoo"; and
`lockstep`, which drives two vector environments side by side. Tests and server code do not.

`import zoo` registers them, so that "zoo:zoo/Dict-v0" works in any process that can import this
package. `SPACE_IDS` are the environments whose observations and actions are of one kind of space: `KIND_IDS` one of
each kind and one of many, `VARIANT_IDS` others of these kinds;
`CLASSIC` and `TOY_TEXT` are gymnasium's own that every test of sameness runs over.
"""

from __future__ import annotations

import gymnasium as gym

from zoo.spaces import KINDS

__all__ = ["CLASSIC", "KIND_IDS", "SPACE_IDS", "TAXI", "TOY_TEXT", "VARIANT_IDS"]

CLASSIC = (
    "CartPole-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "Acrobot-v1",
)
# gymnasium 1.2 has no later Taxi than v3, and later ones warn about it.
TAXI = max(id for id in gym.registry if id.startswith("Taxi-v"))
TOY_TEXT = ("FrozenLake-v1", TAXI, "CliffWalking-v1", "Blackjack-v1")

SPACE_IDS = tuple(f"zoo/{kind}-v0" for kind in KINDS)
KIND_IDS = tuple(
    f"zoo/{kind}-v0"
    for kind in (
        "Box",
        "Discrete",
        "MultiDiscrete",
        "MultiBinary",
        "Text",
        "Dict",
        "Tuple",
        "Sequence",
        "Graph",
        "OneOf",
        "Nested",
    )
)
VARIANT_IDS = tuple(id for id in SPACE_IDS if id not in KIND_IDS)

_OTHERS = {
    "Infos": "zoo.infos:InfosEnv",
    "EveryStepInfos": "zoo.infos:EveryStepInfosEnv",
    "Scalars": "zoo.scalars:ScalarsEnv",
    "Differing": "zoo.spaces:DifferingEnv",
    "Misfit": "zoo.spaces:MisfitEnv",
    "Raising": "zoo.failures:RaisingEnv",
    "Unencodable": "zoo.failures:UnencodableEnv",
    "Killed": "zoo.failures:KilledEnv",
    "Printing": "zoo.failures:PrintingEnv",
    "Strict": "zoo.failures:StrictEnv",
    "Sleeping": "zoo.waiting:SleepingEnv",
    "Gated": "zoo.waiting:GatedEnv",
    "Rendering": "zoo.rendering:RenderingEnv",
    "Members": "zoo.members:MembersEnv",
    "Counter": "zoo.counter:CounterEnv",
    "Large": "zoo.large:LargeEnv",
}


def _register() -> None:
    for kind in KINDS:
        gym.register(f"zoo/{kind}-v0", entry_point="zoo.spaces:SpaceEnv", kwargs={"kind": kind})
    for name, entry_point in _OTHERS.items():
        gym.register(f"zoo/{name}-v0", entry_point=entry_point)
    gym.register(
        "zoo/NativeCounter-v0",
        entry_point="zoo.counter:CounterEnv",
        vector_entry_point="zoo.native:CounterVectorEnv",
    )
    gym.register(
        "zoo/NativeLarge-v0",
        entry_point="zoo.large:LargeEnv",
        vector_entry_point="zoo.large:LargeVectorEnv",
    )
    gym.register(
        "zoo/Limited-v0",
        entry_point="zoo.counter:CounterEnv",
        max_episode_steps=6,
        kwargs={"goal": 50},
    )


_register()
