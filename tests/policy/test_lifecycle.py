"""A request's way through encode, prefill and decode on three instances, and out of it."""

from __future__ import annotations

import pytest

from triptych.policy import (
    EmbeddingCache,
    EncodeScheduler,
    Image,
    KVCache,
    Phase,
    Request,
    SarathiScheduler,
    Scheduler,
    Status,
    UnifiedScheduler,
)

from .drive import play_round, request

PICTURE = Image(patches=9, tokens=4, content=1)


def encoder() -> EncodeScheduler:
    return EncodeScheduler(KVCache(0), EmbeddingCache(10, 4), phases=[Phase.ENCODE])


def prefiller(blocks: int = 10, embedding_blocks: int = 10, **knobs: int) -> SarathiScheduler:
    """Eight tokens an iteration."""
    return SarathiScheduler(
        KVCache(blocks, 4, prefix_cache=True),
        EmbeddingCache(embedding_blocks, 4),
        phases=[Phase.PREFILL],
        max_tokens=8,
        max_batch=8,
        watermark=0.0,
        **knobs,
    )


def decoder(blocks: int = 10, max_batch: int = 8) -> UnifiedScheduler:
    return UnifiedScheduler(KVCache(blocks, 4), phases=[Phase.DECODE], max_batch=max_batch)


def is_empty(scheduler: Scheduler) -> bool:
    """Whether the instance holds nothing and owes nothing."""
    embeddings = scheduler.embeddings
    return (
        len(scheduler) == 0
        and not scheduler.held
        and scheduler.kv.free == scheduler.kv.blocks
        and (embeddings is None or embeddings.used == 0)
        and not scheduler.decodes.members
        and scheduler.decodes.context_tokens == 0
    )


def received(scheduler: Scheduler, *senders: Scheduler) -> list[Request]:
    """Lets all transfers that the scheduler has made room for come to an end."""
    reserved, scheduler.reserved = scheduler.reserved, []
    for each in reserved:
        for sender in senders:
            if each in sender.held:
                sender.release(each)
        scheduler.land(each)
    return reserved


def with_context(name: str, tokens: int, output: int) -> Request:
    """A request whose prompt has been computed elsewhere, and its first token with it."""
    each = request(name, tokens, output)
    each.phase, each.context_tokens, each.generated_tokens = Phase.DECODE, tokens, 1
    return each


# Three phases on three instances ----------------------------------------------------------------------


def test_a_request_goes_from_encode_over_prefill_to_decode() -> None:
    encode, prefill, decode = encoder(), prefiller(), decoder()
    a = request("A", 8, 3, images=[PICTURE], hashes=[1, 2])

    encode.add(a)
    assert play_round(encode) == "A#9 >A"
    assert (a.phase, a.status) == (Phase.PREFILL, Status.WAITING)
    assert encode.embeddings is not None
    assert (len(encode), encode.embeddings.used) == (0, 1), "gone, but its embeddings are still to be sent"

    prefill.add(a, from_elsewhere=True)
    assert play_round(prefill) == "-", "its embeddings are not here yet"
    assert (prefill.reserved, a.status, len(prefill)) == ([a], Status.TRANSFERRING, 1)
    received(prefill, encode)
    assert is_empty(encode)
    assert a.status is Status.WAITING
    assert play_round(prefill) == "A:8 >A"
    assert (a.phase, a.status, a.generated_tokens) == (Phase.DECODE, Status.WAITING, 1)
    assert prefill.embeddings is not None
    assert (prefill.embeddings.used, prefill.kv.used) == (0, 2), "only its KV is still to be sent"

    decode.add(a, from_elsewhere=True)
    assert play_round(decode) == "-"
    assert (decode.kv.used, a.status) == (2, Status.TRANSFERRING), "room for the 8 tokens that come"
    received(decode, prefill)
    assert is_empty(prefill)
    assert [play_round(decode), play_round(decode)] == ["A+1", "A+1 .A"]
    assert (a.status, a.generated_tokens, a.context_tokens) == (Status.FINISHED, 3, 10)
    assert is_empty(decode)


def test_a_request_for_a_single_token_ends_with_its_prompt() -> None:
    prefill, a = prefiller(), request("A", 8, 1)
    prefill.add(a)
    assert play_round(prefill) == "A:8 .A"
    assert (a.status, prefill.leaving) == (Status.FINISHED, [])
    assert is_empty(prefill)


def test_what_was_sent_on_stays_findable_where_it_was_computed() -> None:
    prefill = prefiller()
    a, b = request("A", 9, 2, hashes=[1, 2]), request("B", 9, 2, hashes=[1, 2])
    prefill.add(a)
    assert [play_round(prefill), play_round(prefill)] == ["A:8..", "A:1@8 >A"]
    prefill.release(a)
    prefill.add(b)
    assert play_round(prefill) == "B:1@8 >B"


def test_instances_of_one_phase_take_text_without_the_phase_before() -> None:
    prefill = prefiller()
    prefill.add(request("A", 5, 2))
    assert play_round(prefill) == "A:5 >A"


# Memory is set aside before anything is sent ----------------------------------------------------------


def test_nothing_is_sent_before_there_is_room_for_it() -> None:
    # 5 blocks. A's 12 tokens take 3; B's 12 would need 3 of the other 2; C's 3 fit, but do not overtake.
    decode = decoder(blocks=5)
    a, b, c = with_context("A", 12, 2), with_context("B", 12, 2), with_context("C", 3, 2)
    for each in (a, b, c):
        decode.add(each, from_elsewhere=True)
    play_round(decode)
    assert received(decode) == [a]
    assert play_round(decode) == "A+1 .A"
    assert decode.reserved == [], "the room that A frees is seen in the next round"
    play_round(decode)
    assert received(decode) == [b, c]
    assert play_round(decode) == "B+1 C+1 .B .C"


def test_those_under_way_count_towards_the_batch() -> None:
    decode = decoder(max_batch=2)
    a, b, c = (with_context(name, 4, 3) for name in "ABC")
    for each in (a, b, c):
        decode.add(each, from_elsewhere=True)
    play_round(decode)
    assert decode.reserved == [a, b]
    received(decode)
    assert [play_round(decode), decode.reserved] == ["A+1 B+1", []]
    assert [play_round(decode), play_round(decode), decode.reserved] == ["A+1 B+1 .A .B", "-", [c]]


def test_embeddings_are_sent_when_all_of_a_requests_images_have_room() -> None:
    prefill = prefiller(embedding_blocks=2)
    first = request("A", 9, 1, images=[PICTURE, PICTURE._replace(content=2)])
    second = request("B", 9, 1, images=[PICTURE._replace(content=3)])
    for each in (first, second):
        each.phase = Phase.PREFILL
        prefill.add(each, from_elsewhere=True)
    play_round(prefill)
    assert received(prefill) == [first]
    assert [play_round(prefill), prefill.reserved] == ["A:8..", []]
    assert [play_round(prefill), prefill.reserved] == ["A:1@8 .A", []]
    play_round(prefill)
    assert received(prefill) == [second]


def test_kv_that_has_come_decodes_beside_what_is_there() -> None:
    decode = decoder()
    decode.add(with_context("A", 4, 4), from_elsewhere=True)
    play_round(decode)
    received(decode)
    decode.add(with_context("B", 6, 2), from_elsewhere=True)
    assert play_round(decode) == "A+1"
    received(decode)
    assert play_round(decode) == "A+1 B+1 .B"


def test_a_seat_that_is_reserved_is_not_given_to_another() -> None:
    # A pool that prefills and decodes, for one request at a time: A's KV is under way, so B waits.
    scheduler = mixed(max_batch=1)
    scheduler.add(with_context("A", 4, 3), from_elsewhere=True)
    scheduler.add(request("B", 4, 1))
    assert play_round(scheduler) == "-"
    received(scheduler)
    assert [play_round(scheduler) for _ in range(3)] == ["A+1", "A+1 .A", "B:4 .B"]


def test_kv_that_is_under_way_is_not_found_before_it_has_come() -> None:
    scheduler, a = mixed(max_batch=8), with_context("A", 8, 2)
    a.block_hashes = (1, 2)
    scheduler.add(a, from_elsewhere=True)
    assert play_round(scheduler) == "-"
    scheduler.add(request("B", 5, 1, hashes=[1]))
    assert play_round(scheduler) == "B:5 .B"
    received(scheduler)
    scheduler.add(request("C", 9, 1, hashes=[1, 2]))
    assert play_round(scheduler) in ("C:1@8 A+1 .A .C", "C:5@4 A+1 .A .C")


def mixed(max_batch: int) -> SarathiScheduler:
    """Prefills, and decodes what it has prefilled or what others have."""
    kv = KVCache(10, 4, prefix_cache=True)
    return SarathiScheduler(kv, phases=[Phase.PREFILL, Phase.DECODE], max_tokens=8, max_batch=max_batch)


# Preemption where only decodes run --------------------------------------------------------------------


def preempted_on_a_decoder(second: Request) -> Scheduler:
    """Runs A and `second`, 4 tokens of context each, on 2 blocks: the fifth token of both finds none."""
    decode = decoder(blocks=2)
    for each in (with_context("A", 4, 2), second):
        decode.add(each, from_elsewhere=True)
    play_round(decode)
    received(decode)
    assert play_round(decode) == "!B A+1 .A >B"
    assert is_empty(decode), "nothing is held for a request that has lost its KV"
    return decode


def test_a_preempted_text_request_goes_back_to_prefill() -> None:
    b = with_context("B", 4, 3)
    preempted_on_a_decoder(b)
    assert (b.phase, b.status, b.preemptions) == (Phase.PREFILL, Status.WAITING, 1)
    assert (b.context_tokens, b.generated_tokens) == (0, 1)
    prefill = prefiller()
    prefill.add(b)
    assert play_round(prefill) == "B:5 >B", "4 prompt tokens and the one that was generated"
    assert (b.generated_tokens, b.context_tokens, b.phase) == (2, 5, Phase.DECODE)
    decode = decoder()
    decode.add(b, from_elsewhere=True)
    play_round(decode)
    received(decode, prefill)
    assert play_round(decode) == "B+1 .B"
    assert b.generated_tokens == 3


def test_a_preempted_request_with_images_goes_back_to_encode() -> None:
    b = with_context("B", 4, 3)
    b.images = (PICTURE,)
    preempted_on_a_decoder(b)
    assert (b.phase, b.encoded_images) == (Phase.ENCODE, 0)
    encode = encoder()
    encode.add(b)
    assert play_round(encode) == "B#9 >B"
    assert b.phase is Phase.PREFILL


# Abort ------------------------------------------------------------------------------------------------


def pool(blocks: int = 10) -> SarathiScheduler:
    """Runs all phases, 4 tokens an iteration."""
    kv, embeddings = KVCache(blocks, 4, prefix_cache=True), EmbeddingCache(2, 4)
    return SarathiScheduler(kv, embeddings, max_tokens=4, max_batch=4, max_patches=9, watermark=0.0)


def test_abort_while_it_waits_for_its_images() -> None:
    scheduler, a = pool(), request("A", 8, 2, images=[PICTURE])
    scheduler.add(a)
    scheduler.abort(a)
    assert a.status is Status.ABORTED
    assert is_empty(scheduler)


def test_abort_between_two_of_its_images() -> None:
    scheduler, a = pool(), request("A", 12, 2, images=[PICTURE, PICTURE._replace(content=2)])
    scheduler.add(a)
    assert play_round(scheduler) == "A#9"
    scheduler.abort(a)
    assert is_empty(scheduler)


def test_abort_while_it_waits_for_prefill_with_its_embeddings() -> None:
    scheduler, a = pool(), request("A", 8, 2, images=[PICTURE])
    scheduler.add(a)
    play_round(scheduler)
    scheduler.abort(a)
    assert is_empty(scheduler)


def test_abort_in_the_middle_of_its_prompt() -> None:
    scheduler, a = pool(), request("A", 8, 2, images=[PICTURE], hashes=[1, 2])
    scheduler.add(a)
    assert [play_round(scheduler), play_round(scheduler)] == ["A#9", "A:4.."]
    scheduler.abort(a)
    assert is_empty(scheduler)


def test_abort_while_it_decodes() -> None:
    scheduler, a, b = pool(), request("A", 4, 9, hashes=[1]), request("B", 1, 2)
    scheduler.add(a)
    assert [play_round(scheduler) for _ in range(3)] == ["A:4", "A+1", "A+1"]
    scheduler.add(b)
    scheduler.abort(a, Status.TIMED_OUT)
    assert (a.status, a.generated_tokens, a.context_tokens) == (Status.TIMED_OUT, 3, 6)
    assert [play_round(scheduler), play_round(scheduler)] == ["B:1", "B+1 .B"]
    assert is_empty(scheduler)


def test_abort_after_a_preemption() -> None:
    # 3 blocks: A's fifth token takes one and B's prompt another, so B's fifth token finds none.
    scheduler, a, b = pool(blocks=3), request("A", 4, 5), request("B", 4, 5)
    scheduler.add(a)
    scheduler.add(b)
    assert [play_round(scheduler) for _ in range(4)] == ["A:4", "B:3.. A+1", "B:1@3 A+1", "!B A+1"]
    scheduler.abort(b)
    assert (b.status, b.generated_tokens) == (Status.ABORTED, 1)
    assert play_round(scheduler) == "A+1 .A"
    assert is_empty(scheduler)


def test_abort_while_it_waits_for_room_to_be_sent_to() -> None:
    decode, a = decoder(), with_context("A", 4, 2)
    decode.add(a, from_elsewhere=True)
    decode.abort(a)
    assert a.status is Status.ABORTED
    assert is_empty(decode)


def test_a_request_under_way_lands_before_it_is_aborted() -> None:
    decode, a = decoder(), with_context("A", 4, 2)
    decode.add(a, from_elsewhere=True)
    play_round(decode)
    with pytest.raises(KeyError):
        decode.abort(a)
    received(decode)
    assert decode.kv.used == 1
    decode.abort(a)
    assert is_empty(decode)


def test_what_a_request_left_behind_is_released_by_its_sender() -> None:
    prefill, a = prefiller(), request("A", 8, 2, hashes=[1, 2])
    prefill.add(a)
    play_round(prefill)
    with pytest.raises(KeyError):
        prefill.abort(a)
    prefill.release(a)
    assert is_empty(prefill)


def test_an_abort_of_one_leaves_the_others_alone() -> None:
    scheduler = pool()
    a, b = request("A", 5, 3, hashes=[1]), request("B", 5, 2, hashes=[1])
    scheduler.add(a)
    scheduler.add(b)
    assert [play_round(scheduler), play_round(scheduler)] == ["A:4..", "A:1@4 B:1@4"]
    scheduler.abort(a)
    assert scheduler.kv.used == 2, "B holds the block that it shared with A, and one of its own"
    assert play_round(scheduler) == "B+1 .B"
    assert is_empty(scheduler)


# Capacity ---------------------------------------------------------------------------------------------


def test_a_request_may_have_as_much_context_as_there_are_blocks() -> None:
    scheduler = pool(blocks=3)
    assert scheduler.max_context == 12
    longest = request("A", 6, 7)
    assert longest.longest_context == 12
    scheduler.add(longest)
    while not play_round(scheduler).endswith(".A"):
        assert scheduler.decodes.members or scheduler.prefilling
    assert is_empty(scheduler)


# States -----------------------------------------------------------------------------------------------


def test_statuses_that_end_a_life() -> None:
    assert {status for status in Status if status.ended} == {
        Status.FINISHED,
        Status.ABORTED,
        Status.TIMED_OUT,
        Status.REJECTED,
    }


def test_a_scheduler_counts_whom_it_is_responsible_for() -> None:
    scheduler = pool()
    scheduler.add(request("A", 4, 3))
    scheduler.add(request("B", 4, 3))
    play_round(scheduler)
    assert (len(scheduler), scheduler.running, scheduler.queued) == (2, 1, 1)
