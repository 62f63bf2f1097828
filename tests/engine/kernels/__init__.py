"""Tests of the CPU's kernels and of the choice among them."""
