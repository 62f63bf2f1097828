"""What `--profile-batches` adds to a run record."""

TRACE, TABLE, TEXT = "kernels.trace.json.gz", "throughput.json", "throughput.md"
