"""A provoked failure: what is done, and what an expert who saw it done would call the cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.lab.stage import Stage

Provoke = Callable[[Stage], object]


@dataclass(frozen=True)
class Case:
    """`node` counts from 1; `keeps_ray` says that the next case may use this one's Ray."""

    name: str
    of: str
    cause: str | None
    node: int | None
    acceptable: tuple[str, ...]
    needs_ray: bool
    keeps_ray: bool
    provoke: Provoke


CASES: dict[str, Case] = {}


def case(
    of: str,
    cause: str | None,
    node: int | None = None,
    acceptable: tuple[str, ...] = (),
    ray: bool = False,
    keeps_ray: bool | None = None,
) -> Callable[[Provoke], Provoke]:
    """Register the function as the case of its name; `ray`: a joined Ray of two nodes is there before."""

    def register(provoke: Provoke) -> Provoke:
        name = provoke.__name__.replace("_", "-")
        keeps = ray if keeps_ray is None else keeps_ray
        CASES[name] = Case(name, " ".join(of.split()), cause, node, acceptable, ray, keeps, provoke)
        return provoke

    return register
