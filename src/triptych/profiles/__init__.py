"""Measured operators: the table that all profiles come as, read from our own files and from others'."""

from triptych.profiles.parquet import read_profile, write_profile
from triptych.profiles.table import COLUMNS, SIZES, Profile, ProfileInfo, joined, profile_of

__all__ = [
    "COLUMNS",
    "SIZES",
    "Profile",
    "ProfileInfo",
    "joined",
    "profile_of",
    "read_profile",
    "write_profile",
]
