"""The network between the nodes: a matrix of what was measured, its problems, its table. Pure."""

from cluster.network.matrix import (
    Link,
    Matrix,
    bytes_per_transfer,
    make_matrix,
    opponents,
    parse_said,
    seconds_per_transfer,
)
from cluster.network.problems import problems
from cluster.network.table import columns_and_rows

__all__ = [
    "Link",
    "Matrix",
    "bytes_per_transfer",
    "columns_and_rows",
    "make_matrix",
    "opponents",
    "parse_said",
    "problems",
    "seconds_per_transfer",
]
