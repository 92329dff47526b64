"""A user's mistakes; each line marked MISTAKE must be an error, and no other line."""

from __future__ import annotations

from user_program import Count, Counter, Shout, Speaker, Values, train

from covey.actors.runtime import Ref, System
from covey.recipes import CyclicRecipe, FedAvgRecipe, FedProxRecipe, SimEnv


async def actors(system: System, counter: Ref[Counter], speaker: Ref[Speaker]) -> None:
    """Speak with the wrong actors."""
    await counter.ask(Shout("no counter shouts"))  # MISTAKE: sent to the wrong actor
    await speaker.tell(Count(1))  # MISTAKE: sent to the wrong actor
    text: str = await counter.ask(Count(1))  # MISTAKE: the reply is an int
    await counter.ask(Values(1))  # MISTAKE: a stream request is not asked
    await system.spawn(Counter(), name="counter")  # MISTAKE: an instance is no factory
    Count("one")  # MISTAKE: not an int
    del text


async def recipes() -> None:
    """Misuse recipes."""
    FedAvgRecipe(initial_model={}, num_round=3, train=train)  # MISTAKE: no such setting
    SimEnv(num_clients="two")  # MISTAKE: not a number
    SimEnv(isolation="thread")  # MISTAKE: no such isolation
    FedProxRecipe(initial_model={}, nu=0.1, train=train)  # MISTAKE: no such setting
    CyclicRecipe(initial_model={}, order="lot", train=train)  # MISTAKE: no such order
