"""Breaking a serving cluster on purpose: what is done to a node, and what became of the requests. Pure."""
