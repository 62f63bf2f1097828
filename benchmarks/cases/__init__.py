"""Measurements of real engines, each with what is needed to predict it."""
