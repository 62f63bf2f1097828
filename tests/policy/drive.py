"""Drives one scheduler round by round and writes each batch down, for schedules worked out by hand.

A batch reads, in this order:

    !C        C was preempted while the batch was formed
    A:5       a chunk of 5 tokens, with which A's prompt ends
    A:5@8..   a chunk of 5 tokens that has 8 in the cache before it, and more to come after it
    B+1       B decodes one token (B+4: the batch is run four times)
    pad2      two slots of requests that have ended are computed all the same
    A#6       an image of A with 6 patches is encoded
    A=        A found all its embeddings in the cache
    .B        B ends with it
    >A        A leaves for another instance
    -         nothing can run
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from triptych.policy import Batch, Image, Phase, Request, Scheduler


def request(
    name: str, prompt: int, output: int, *, images: Sequence[Image] = (), hashes: Sequence[int] = ()
) -> Request:
    """A request called by a letter."""
    return Request(
        id=ord(name) - ord("A"),
        prompt_tokens=prompt,
        output_tokens=output,
        images=tuple(images),
        block_hashes=tuple(hashes),
        phase=Phase.ENCODE if images else Phase.PREFILL,
    )


def name(request: Request) -> str:
    """The letter that a request is called by."""
    return chr(ord("A") + request.id)


def play(
    scheduler: Scheduler,
    *at_once: Request,
    later: Mapping[int, Request] | None = None,
    jump: bool = False,
) -> list[str]:
    """The batches until nothing can run and nobody is to come.

    Args:
        scheduler: what forms them.
        at_once: requests that are there before the first round.
        later: requests by the round before which they come.
        jump: whether a batch is run as often as it may be, rather than once.
    """
    arrivals = dict(later or {})
    for arrival in at_once:
        scheduler.add(arrival)
    lines: list[str] = []
    while True:
        arrival_now = arrivals.pop(len(lines), None)
        if arrival_now is not None:
            scheduler.add(arrival_now)
        line = play_round(scheduler, jump=jump)
        if line == "-" and not arrivals:
            return lines
        lines.append(line)
        assert len(lines) < 1000, "the schedule does not end"


def play_round(scheduler: Scheduler, *, jump: bool = False) -> str:
    """One round: forms a batch, runs it, and says what it was."""
    batch = scheduler.schedule()
    preempted = [f"!{name(victim)}" for victim in scheduler.preempted]
    if batch is None:
        return " ".join([*preempted, *_left(scheduler)]) or "-"
    iterations = batch.repeat if jump else 1
    members = [f"{name(member)}+{iterations}" for member in scheduler.decodes.members]
    assert batch.decodes in (0, len(members))
    words = [*preempted, *_prompts(batch), *(members if batch.decodes else []), *_rest(batch)]
    _, finished = scheduler.complete(batch, iterations)
    words += [f".{name(ended)}" for ended in finished]
    return " ".join(words + _left(scheduler))


def _prompts(batch: Batch) -> list[str]:
    return [
        f"{name(chunk.request)}:{chunk.tokens}"
        + (f"@{chunk.history}" if chunk.history else "")
        + ("" if chunk.last else "..")
        for chunk in batch.chunks
    ]


def _rest(batch: Batch) -> list[str]:
    words = [f"pad{batch.padding}"] if batch.padding else []
    words += [f"{name(asker)}#{image.patches}" for asker, image in batch.images]
    encoding = [asker for asker, _ in batch.images]
    return words + [f"{name(encoded)}=" for encoded in batch.encoded if encoded not in encoding]


def _left(scheduler: Scheduler) -> list[str]:
    leaving, scheduler.leaving = scheduler.leaving, []
    return [f">{name(left)}" for left in leaving]
