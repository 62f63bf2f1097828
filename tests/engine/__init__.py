"""The engine: what it computes, and that it forms the batches that the simulator forms."""
