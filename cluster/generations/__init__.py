"""Generations: each change of a cluster has a number, a record and an outcome on the nodes. Pure.

record.py       what is kept: the record, what became of it
history.py      all of them, as the nodes tell it together; which one is current, which number is next
spec.py         the identity of what a plan starts, and the text of the inventory it came from
difference.py   from one inventory to another, key by key
consequence.py  what a deployment stops, restarts, starts
drift.py        what runs against what ran when it served
keep.py         the steps that write all this down
"""
