"""Predictions held against real runs: `api.validate` serves, benches and predicts the same requests.

It needs the extras [engine] and [bench], and [figures] for the figure; nothing is imported here, since other
parts of this room need less.
"""
