"""The letters that byte-level vocabularies write bytes with."""

from __future__ import annotations


def byte_letters() -> dict[str, int]:
    """The letters that byte-level vocabularies write bytes with, as GPT-2's.

    Printable ones stand for themselves, the others are the code points from 256 on, in order.
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in plain}
    others = (byte for byte in range(256) if byte not in set(plain))
    return letters | {chr(256 + number): byte for number, byte in enumerate(others)}
