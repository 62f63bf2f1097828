"""Tests of comparison and validation."""
