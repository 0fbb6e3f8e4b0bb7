"""What the nodes answered when they were asked to prove that the traffic takes the right wires. Pure."""
