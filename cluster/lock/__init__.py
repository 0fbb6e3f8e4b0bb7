"""The lock on the nodes: a lease with a fencing epoch. Pure; PROTOCOL.md is what it does and why.

`state` reads what a node answers, `commands` are the words for it, `tenure` is what a controller may do with
the leases that it has, `messages` says it to people.
"""
