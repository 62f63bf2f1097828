"""For each policy, schedules of text requests worked out by hand. How a batch reads is said in `drive`.

Blocks have 4 tokens throughout. "A 4+3" is a request with 4 prompt tokens that generates 3; the last token
is never stored, so in the end it has 6 tokens in the cache. The iteration that ends a prompt yields the
first token.
"""

from __future__ import annotations

from triptych.policy import (
    KVCache,
    OrcaScheduler,
    SarathiScheduler,
    StaticScheduler,
    UnifiedScheduler,
    VllmScheduler,
)

from .drive import play, request


def kv(blocks: int = 100) -> KVCache:
    return KVCache(blocks, 4)


# static ---------------------------------------------------------------------------------------------


def test_static_runs_a_batch_until_its_last_request_ends() -> None:
    # Three may run at once, so D waits; not for B and C, whose slots are free, but for A.
    scheduler = StaticScheduler(kv(), max_batch=3)
    requests = request("A", 4, 3), request("B", 6, 1), request("C", 3, 2), request("D", 9, 2)
    assert play(scheduler, *requests) == [
        "A:4 B:6 C:3 .B",
        "A+1 C+1 pad1 .C",
        "A+1 pad2 .A",
        "D:9",
        "D+1 .D",
    ]


def test_static_reserves_memory_for_whole_lengths() -> None:
    # A 4+3 grows to 6 tokens, 2 blocks; B 6+1 stays at 6, 2 blocks. C's single block is the fifth.
    requests = request("A", 4, 3), request("B", 6, 1), request("C", 3, 2)
    assert play(StaticScheduler(kv(4)), *requests) == [
        "A:4 B:6 .B",
        "A+1 pad1",
        "A+1 pad1 .A",
        "C:3",
        "C+1 .C",
    ]


def test_static_admits_nobody_into_a_batch_that_runs() -> None:
    a, b = request("A", 4, 3), request("B", 4, 1)
    assert play(StaticScheduler(kv()), a, later={1: b}) == [
        "A:4",
        "A+1",
        "A+1 .A",
        "B:4 .B",
    ]


# orca -----------------------------------------------------------------------------------------------


def test_orca_lets_requests_join_and_leave_at_every_iteration() -> None:
    # 5 blocks. A 4+3 reserves 2 (6 tokens), B 6+1 2 (6), C 8+2 3 (9), D 1+1 1 (1).
    # 0: A and B leave 1 block; C needs 3, and D, which would fit, does not overtake it.
    # 1: B's 2 blocks are back: C takes all 3, its prompt runs beside A's decode.
    # 2: nothing is free; A gets its third token and C its second.
    requests = request("A", 4, 3), request("B", 6, 1), request("C", 8, 2), request("D", 1, 1)
    assert play(OrcaScheduler(kv(5)), *requests) == [
        "A:4 B:6 .B",
        "C:8 A+1",
        "A+1 C+1 .A .C",
        "D:1 .D",
    ]


def test_orca_never_runs_more_than_max_batch() -> None:
    requests = request("A", 4, 3), request("B", 4, 1), request("C", 4, 2)
    assert play(OrcaScheduler(kv(), max_batch=2), *requests) == [
        "A:4 B:4 .B",
        "C:4 A+1",
        "A+1 C+1 .A .C",
    ]


# vllm -----------------------------------------------------------------------------------------------


def test_vllm_runs_prompts_first_and_alone() -> None:
    # 0: 4 + 6 tokens are just the budget. 2: C comes, and the decodes stall for it.
    scheduler = VllmScheduler(kv(), max_tokens=10)
    a, b, c = request("A", 4, 4), request("B", 6, 3), request("C", 5, 2)
    assert play(scheduler, a, b, later={2: c}) == [
        "A:4 B:6",
        "A+1 B+1",
        "C:5",
        "A+1 B+1 C+1 .B .C",
        "A+1 .A",
    ]


def test_vllm_lets_a_prompt_beyond_the_budget_through_alone() -> None:
    requests = request("A", 12, 1), request("B", 4, 1), request("C", 7, 1)
    assert play(VllmScheduler(kv(), max_tokens=10), *requests) == ["A:12 .A", "B:4 .B", "C:7 .C"]


def test_vllm_never_runs_more_than_max_batch() -> None:
    requests = request("A", 4, 3), request("B", 4, 2), request("C", 4, 1)
    assert play(VllmScheduler(kv(), max_batch=2), *requests) == ["A:4 B:4", "A+1 B+1 .B", "C:4 .C", "A+1 .A"]


def test_vllm_preempts_the_latest_and_computes_it_again() -> None:
    # 4 blocks: A 6+6 takes 2, B 8+3 takes 2.
    # 1: B's ninth token needs a block and there is none: B, the latest, goes. A's seventh fits its second.
    # 3: A's ninth token takes a block. B would need 3, for 8 prompt tokens and the one it has generated.
    # 6: A has ended. B's 9 tokens are computed again, and that yields its second token.
    scheduler = VllmScheduler(kv(4), watermark=0.0)
    a, b = request("A", 6, 6), request("B", 8, 3)
    assert play(scheduler, a, b) == [
        "A:6 B:8",
        "!B A+1",
        "A+1",
        "A+1",
        "A+1",
        "A+1 .A",
        "B:9",
        "B+1 .B",
    ]
    assert (a.preemptions, b.preemptions) == (0, 1)
    assert (a.generated_tokens, b.generated_tokens) == (6, 3)


def test_vllm_lets_a_preempted_request_go_before_all_that_wait() -> None:
    # As before; and C, who came in 1 and would fit from then on, does not overtake B.
    scheduler = VllmScheduler(kv(4), watermark=0.0)
    assert play(scheduler, request("A", 6, 6), request("B", 8, 3), later={1: request("C", 4, 1)}) == [
        "A:6 B:8",
        "!B A+1",
        "A+1",
        "A+1",
        "A+1",
        "A+1 .A",
        "B:9 C:4 .C",
        "B+1 .B",
    ]


def test_vllm_keeps_the_watermark_free_on_admission() -> None:
    # 10 blocks, 2 to be kept. A takes 1 of them and B 6, which leaves 3; C's 2 would leave only 1.
    requests = request("A", 4, 2), request("B", 24, 1), request("C", 8, 1)
    assert play(VllmScheduler(kv(10), watermark=0.2), *requests) == ["A:4 B:24 .B", "C:8 .C", "A+1 .A"]


def test_the_watermark_does_not_hold_up_a_request_that_finds_all_memory_free() -> None:
    assert play(VllmScheduler(kv(10), watermark=0.2), request("A", 40, 1)) == ["A:40 .A"]
    assert play(SarathiScheduler(kv(10), watermark=0.2), request("A", 40, 1)) == ["A:40 .A"]


# sarathi --------------------------------------------------------------------------------------------


def test_sarathi_fills_the_budget_beside_the_decodes_with_chunks() -> None:
    # 8 tokens an iteration. 0: A's 5 leave 3 for B. 1: A's decode leaves 7 for B, none for C, who came.
    # 2: B's last 2 and A's decode leave 5: enough for C. 3: A's fourth token and B's second.
    scheduler = SarathiScheduler(kv(), max_tokens=8, max_batch=8)
    a, b, c = request("A", 5, 4), request("B", 12, 2), request("C", 3, 1)
    assert play(scheduler, a, b, later={1: c}) == [
        "A:5 B:3..",
        "B:7@3.. A+1",
        "B:2@10 C:3 A+1 .C",
        "A+1 B+1 .A .B",
    ]


def test_sarathi_never_runs_more_than_max_batch() -> None:
    # B is in the middle of its prompt in 0 and 1, and counts.
    scheduler = SarathiScheduler(kv(), max_tokens=6, max_batch=2)
    requests = request("A", 4, 3), request("B", 6, 1), request("C", 1, 1)
    assert play(scheduler, *requests) == ["A:4 B:2..", "B:4@2 A+1 .B", "C:1 A+1 .A .C"]


def test_sarathi_takes_the_blocks_of_a_whole_prompt_on_admission() -> None:
    # 3 blocks: A's prompt takes 2. B's also needs 2 and waits, though the budget would take half of it.
    scheduler = SarathiScheduler(kv(3), max_tokens=12, max_batch=8)
    assert play(scheduler, request("A", 8, 3), request("B", 8, 1)) == ["A:8", "A+1", "A+1 .A", "B:8 .B"]


def test_sarathi_keeps_the_watermark_free_on_admission() -> None:
    # 10 blocks, 2 to be kept. A takes 1 of them; B's 8 would leave only 1, and C does not overtake B.
    requests = request("A", 4, 2), request("B", 32, 1), request("C", 4, 1)
    assert play(SarathiScheduler(kv(10), watermark=0.2), *requests) == ["A:4", "A+1 .A", "B:32 .B", "C:4 .C"]


def test_sarathi_preempts_the_latest_even_in_the_middle_of_its_prompt() -> None:
    # 5 blocks, 6 tokens an iteration. A 8+6 takes 2 blocks, B 12+2 the other 3.
    # 2: A's ninth token needs a block: B goes, and with it 4 computed tokens. Such a round admits nobody.
    # 3: B needs 3 of the 2 free blocks, so A goes on alone: tokens 3, 4, 5 and 6.
    # 7: B starts again from nothing.
    scheduler = SarathiScheduler(kv(5), max_tokens=6, max_batch=6, watermark=0.0)
    a, b = request("A", 8, 6), request("B", 12, 2)
    assert play(scheduler, a, b) == [
        "A:6..",
        "A:2@6 B:4..",
        "!B A+1",
        "A+1",
        "A+1",
        "A+1",
        "A+1 .A",
        "B:6..",
        "B:6@6",
        "B+1 .B",
    ]
    assert (a.preemptions, b.preemptions) == (0, 1)


# unified --------------------------------------------------------------------------------------------


def test_unified_fills_the_budget_beside_the_decodes_with_chunks() -> None:
    # With memory to spare it goes as sarathi does.
    scheduler = UnifiedScheduler(kv(), max_tokens=8, max_batch=8)
    a, b, c = request("A", 5, 4), request("B", 12, 2), request("C", 3, 1)
    assert play(scheduler, a, b, later={1: c}) == [
        "A:5 B:3..",
        "B:7@3.. A+1",
        "B:2@10 C:3 A+1 .C",
        "A+1 B+1 .A .B",
    ]


def test_unified_never_runs_more_than_max_batch() -> None:
    scheduler = UnifiedScheduler(kv(), max_tokens=6, max_batch=2)
    requests = request("A", 4, 3), request("B", 6, 1), request("C", 1, 1)
    assert play(scheduler, *requests) == ["A:4 B:2..", "B:4@2 A+1 .B", "C:1 A+1 .A .C"]


def test_unified_takes_blocks_chunk_by_chunk() -> None:
    # 3 blocks, as for sarathi above; but B starts on the third, for the 4 tokens that the budget leaves.
    # 1: A's ninth token needs that block: B goes. 2: for 8 tokens B needs 2 blocks, and none is free.
    scheduler = UnifiedScheduler(kv(3), max_tokens=12, max_batch=8)
    assert play(scheduler, request("A", 8, 4), request("B", 8, 1)) == [
        "A:8 B:4..",
        "!B A+1",
        "A+1",
        "A+1 .A",
        "B:8 .B",
    ]


def test_unified_preempts_a_prompt_that_finds_no_blocks_for_its_next_chunk() -> None:
    # 4 blocks, 8 tokens an iteration, A 4+6, B 12+1.
    # 1: A takes its second block, which leaves 1; B's tokens 5 to 11 need 2: B, the latest, goes.
    # 2: 2 blocks are free, enough for the 7 tokens that the budget leaves to B.
    # 3: B's last 5 tokens need a third block: B goes. 4: as 2.
    # 5: A's ninth token needs a third block: B goes, and A ends. 6: B has all memory and the whole budget.
    scheduler = UnifiedScheduler(kv(4), max_tokens=8, max_batch=8)
    a, b = request("A", 4, 6), request("B", 12, 1)
    assert play(scheduler, a, b) == [
        "A:4 B:4..",
        "!B A+1",
        "B:7.. A+1",
        "!B A+1",
        "B:7.. A+1",
        "!B A+1 .A",
        "B:8..",
        "B:4@8 .B",
    ]
    assert b.preemptions == 3


def test_unified_keeps_no_watermark() -> None:
    # All 10 blocks are given out at once.
    requests = request("A", 4, 2), request("B", 36, 1)
    assert play(UnifiedScheduler(kv(10)), *requests) == ["A:4 B:36 .B", "A+1 .A"]


# repeat ---------------------------------------------------------------------------------------------


def test_a_batch_of_decodes_repeats_until_the_first_of_them_ends() -> None:
    requests = request("A", 4, 9), request("B", 4, 5)
    for policy in (OrcaScheduler, VllmScheduler, SarathiScheduler, UnifiedScheduler):
        assert play(policy(kv()), *requests, jump=True) == ["A:4 B:4", "A+4 B+4 .B", "A+4 .A"]
        requests = request("A", 4, 9), request("B", 4, 5)
    assert play(StaticScheduler(kv()), *requests, jump=True) == ["A:4 B:4", "A+4 B+4 .B", "A+4 pad1 .A"]


def test_a_batch_of_decodes_repeats_until_memory_runs_out() -> None:
    # 5 blocks: A and B, 2+9 each, take one each. Their tokens 5 need one more each, 9 would need the sixth.
    # So the batch may run for tokens 3 to 8, and then B has to go.
    scheduler = SarathiScheduler(kv(5), watermark=0.0)
    lines = play(scheduler, request("A", 2, 9), request("B", 2, 9), jump=True)
    assert lines[:2] == ["A:2 B:2", "A+6 B+6"]
    assert lines[2].startswith("!B A+")


def test_a_batch_formed_by_preempting_does_not_repeat() -> None:
    # 4 blocks, A 4+6, B 12+1, as above. Preemption frees 2 blocks, and with them B can start again in the
    # next round. So that round must come at once: jumps and steps give one schedule.
    def rounds(*, jump: bool) -> list[str]:
        scheduler = UnifiedScheduler(kv(4), max_tokens=8, max_batch=8)
        return play(scheduler, request("A", 4, 6), request("B", 12, 1), jump=jump)

    assert rounds(jump=True) == rounds(jump=False)
    assert rounds(jump=True)[1] == "!B A+1"
