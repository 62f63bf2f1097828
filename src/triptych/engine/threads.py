"""How a process that runs a model uses processor and memory; the settings are read when torch is loaded."""

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "LRU_CACHE_CAPACITY": "32",
}
"""Threads sleep rather than spin: they share the processor with a server at the least, and spinning threads
that hold up the one they wait for cost many times the work.

oneDNN, and torch's layer above it (ideep), each keep kernels, by default 1024: one for each kind of layer and
each number of rows that was ever multiplied, which comes to a gigabyte. A pass needs those of its own number
of rows alone, and kinds of layers are fewer than 32. On an AMD EPYC with AVX-512, 399 numbers of rows in four
shapes of OPT-125M (fp32) took 1,870 MB with 1024 kernels, 121 with 32 and 35 with 8, and no less time."""
KERNEL_BYTES = 150e6
"""That they take at these capacities: 121 MB at the most in that measurement."""
