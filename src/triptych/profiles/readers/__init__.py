"""Readers of profiles that others measured: a file a format."""
