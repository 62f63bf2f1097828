"""How a process that runs a model uses processor and memory; the settings are read when torch is loaded."""

MEMORY = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "LRU_CACHE_CAPACITY": "32",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
}
"""oneDNN, and torch's layer above it (ideep), each keep kernels, by default 1024: one for each kind of layer
and each number of rows that was ever multiplied, which comes to a gigabyte. A pass needs those of its own
number of rows alone, and kinds of layers are fewer than 32. On an AMD EPYC with AVX-512, 399 numbers of rows
in four shapes of OPT-125M (fp32) took 1,870 MB with 1024 kernels, 121 with 32 and 35 with 8: time was alike.

glibc keeps what a pass has freed for the next, up to these bytes, rather than give it back to the system,
which would clear every page of it anew: 20 prompts of 512 tokens (OPT-125M, bf16) took 2.7 s there in most
runs, and 2.7 to 4.1 s without. The second is the largest that all releases of glibc take."""
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", **MEMORY}
"""Threads sleep rather than spin: they share the processor with a server at the least, and spinning threads
that hold up the one they wait for cost many times the work. It is steadier, not always faster. A server
of OPT-125M on two cores, 16 requests in flight, did 298 and 297 tokens/s; one run in which threads spun a bit
(GOMP_SPINCOUNT=10000) 235, one in which they spun as libgomp has it 344 (both with the settings above, which
the first two had not)."""
KERNEL_BYTES = 150e6
"""That they take at these capacities: 121 MB at the most in that measurement."""
