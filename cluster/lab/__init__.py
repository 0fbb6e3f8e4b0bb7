"""Real hosts on one machine: each a set of namespaces with its own sshd, keys and container engine."""
