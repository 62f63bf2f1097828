"""Quantities in base units as people read them: three figures and the unit that fits."""

from __future__ import annotations

NONE = "-"
"""Stands for a value that there is not."""

_DECIMAL = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def number(value: float | None) -> str:
    """Three significant figures, with thousands separated: `0.0123`, `4.56`, `789`, `12,345`."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:#.3g}" if abs(value) >= 0.000995 else f"{value:.2g}"


def scaled(value: float | None, unit: str) -> str:
    """With a decimal prefix: `1.20 kJ`, `80.0 GB`, `8.03 G`."""
    if value is None:
        return NONE
    for scale, prefix in _DECIMAL:
        if abs(value) >= scale * 0.9995:
            return f"{number(value / scale)} {prefix}{unit}".rstrip()
    return f"{number(value)} {unit}".rstrip()


def seconds(value: float | None) -> str:
    """A duration: `250 us`, `78.6 ms`, `3.83 s`, `12.5 min`, `3.00 h`."""
    if value is None:
        return NONE
    size = abs(value)
    if size == 0:
        return "0 s"
    if size < 0.9995:
        return f"{number(value * 1e3)} ms" if size >= 0.9995e-3 else f"{number(value * 1e6)} us"
    if size < 600:
        return f"{number(value)} s"
    return f"{number(value / 60)} min" if size < 7200 else f"{number(value / 3600)} h"


def percent(share: float | None) -> str:
    """A share from 0 to 1: `0.31%`, `9.7%`, `62%`; never rounded up to 100%."""
    if share is None:
        return NONE
    value = share * 100
    if value < 0.995:
        return f"{value:.2g}%"
    if value < 9.95:
        return f"{value:.1f}%"
    if 99 < value < 100:
        return f"{int(value * 100) / 100:.2f}%" if value >= 99.9 else f"{int(value * 10) / 10:.1f}%"
    return f"{value:.0f}%"


def dollars(value: float | None) -> str:
    """An amount: `$0.0042`, `$2.53`, `$1,234`."""
    if value is None:
        return NONE
    return f"${value:,.0f}" if value >= 999.5 else f"${value:.2f}" if value >= 0.1 else f"${value:.2g}"


def count(value: int, noun: str) -> str:
    """A number of things: `1 image`, `2,000 requests`."""
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {noun}s"
