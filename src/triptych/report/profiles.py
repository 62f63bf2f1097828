"""The list of profiles that `triptych profile list` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from triptych.profiles import Profile
from triptych.report.results import console_beside, write_json
from triptych.report.table import without_trailing_blanks

if TYPE_CHECKING:
    from rich.console import Console


_EXTRA = (
    "The extra [aic] adds kernels measured on data-centre GPUs with vLLM, SGLang and TensorRT-LLM, for any "
    "model: pip install 'triptych[aic]' (aiconfigurator-core)."
)


def print_profiles(
    profiles: Sequence[Profile],
    installed: Iterable[str] = (),
    console: Console | None = None,
    *,
    json: str | None = None,
) -> None:
    """Lists profiles: device, tensor parallelism, operators, rows, date; models; source.

    Args:
        profiles: what to list.
        installed: names of profiles in an installed `aiconfigurator-core`, which are not read for a list.
        console: where to; None: standard output.
        json: a file for the list as JSON, or - for standard output, where it is then alone.

    Raises:
        SpecError: the file cannot be written.
    """
    installed = list(installed)
    write_json({"profiles": [_as_dict(each) for each in profiles], "installed": installed}, json)
    console = console or console_beside(json)
    with without_trailing_blanks(console):
        _print(sorted(profiles, key=lambda each: (each.info.device, each.info.name)), installed, console)


def _print(profiles: Sequence[Profile], installed: Iterable[str], console: Console) -> None:
    facts = [_facts(profile) for profile in profiles]
    widths = [max(map(len, column)) for column in zip(*facts, strict=True)]
    for profile, row in zip(profiles, facts, strict=True):
        cells = (
            cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        )
        console.print(profile.info.name, style="bold cyan", highlight=False, markup=False)
        _below("  ".join(cells).rstrip(), console)
        _below(_whose(profile), console)
        _below(profile.info.source, console, style="dim italic")
    if not profiles:
        console.print("No profile is shipped or in the user's folder; `triptych profile` measures one.")
    names = list(installed)
    if not names:
        console.print(f"\n{_EXTRA}", highlight=False, markup=False)
    else:
        console.print("\nInstalled with aiconfigurator-core, kernels of any model:", highlight=False)
        for name in names:
            console.print(f"  {name}", highlight=False)


def _as_dict(profile: Profile) -> dict[str, Any]:
    return {**profile.info.model_dump(mode="json"), "models": list(profile.models), "rows": len(profile)}


def _below(text: str, console: Console, style: str = "") -> None:
    """Prints what belongs to the name above it, indented to its last line."""
    from rich.padding import Padding
    from rich.text import Text

    console.print(Padding(Text(text, style=style), (0, 0, 0, 2)))


def _whose(profile: Profile) -> str:
    """The models whose operators it has; and the operators that are of no model, and count for any."""
    parts = [", ".join(name for name in profile.models if name)]
    shared = sorted(set(profile.of(model="").columns["operator"].tolist()))
    if shared:
        parts.append(f"for any model: {', '.join(shared)}")
    return "; ".join(part for part in parts if part)


def _facts(profile: Profile) -> tuple[str, ...]:
    # Copies and collectives are of no model, and of no split.
    of_models = profile.columns["tensor"][profile.columns["model"] != ""]
    tensor = sorted(set((of_models if len(of_models) else profile.columns["tensor"]).tolist()))
    operators = len(set(profile.columns["operator"].tolist()))
    return (
        profile.info.device,
        f"TP {', '.join(map(str, tensor))}",
        f"{operators} operator{'s' * (operators > 1)}",
        f"{len(profile):,} rows",
        profile.info.measured_at[:10],
    )
