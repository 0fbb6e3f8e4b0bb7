"""The lock on the nodes: who may change a cluster, and the epoch that fences whoever held it before. Pure."""
