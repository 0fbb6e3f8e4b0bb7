"""What is wrong with a cluster, what follows from it, and which nodes are out of use. Pure."""
