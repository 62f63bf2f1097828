"""What a predicted time rests on."""

MEASURED, INTERPOLATED, ROOFLINE = 0, 1, 2
"""A measurement at this size, measurements around it, or the data sheet and its slope. Of several the largest
counts: it is the least certain."""
