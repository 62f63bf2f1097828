"""How the threads of a process that runs a model wait for each other."""

WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""They sleep rather than spin: they share the processor with a server at the least, and spinning threads that
hold up the one they wait for cost many times the work."""
