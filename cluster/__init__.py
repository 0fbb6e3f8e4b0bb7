"""clusterctl: one large language model over several GPU nodes, with vLLM and Ray, over SSH."""

__version__ = "0.1.0"
