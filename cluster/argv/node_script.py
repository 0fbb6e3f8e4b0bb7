"""The node's own run_cluster.sh: the one way in which anything is started or asked there."""

from __future__ import annotations

from cluster.plan import Member
from cluster.steps import Argv


def script(member: Member, *words: str) -> Argv:
    """`run_cluster.sh WORDS`, from the home folder."""
    return ("sh", f"{member.folder}/run_cluster.sh", *words)
