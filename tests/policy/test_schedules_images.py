"""Schedules with images and with prefix-cache hits, worked out by hand, in the notation of `drive`."""

from __future__ import annotations

from triptych.policy import (
    EmbeddingCache,
    EncodeScheduler,
    Image,
    KVCache,
    OrcaScheduler,
    Phase,
    Request,
    SarathiScheduler,
    StaticScheduler,
    UnifiedScheduler,
    VllmScheduler,
)

from .drive import play, play_round, request


def image(patches: int, content: int, tokens: int = 4) -> Image:
    return Image(patches=patches, tokens=tokens, content=content)


def encoder(embedding_blocks: int = 100, max_patches: int = 10) -> EncodeScheduler:
    embeddings = EmbeddingCache(embedding_blocks, 4)
    return EncodeScheduler(KVCache(0), embeddings, phases=[Phase.ENCODE], max_patches=max_patches)


# encode ---------------------------------------------------------------------------------------------


def test_encode_fills_an_iteration_with_patches_in_order_of_arrival() -> None:
    # 10 patches an iteration. 0: A's second image would make 12. 1: it fits together with B's, to just 10.
    # 2: C's image is beyond the budget by itself, and is let through alone.
    a = request("A", 9, 1, images=[image(6, 1), image(6, 2)])
    b = request("B", 9, 1, images=[image(4, 3)])
    c = request("C", 9, 1, images=[image(20, 4)])
    d = request("D", 9, 1, images=[image(1, 5)])
    assert play(encoder(), a, b, c, d) == ["A#6", "A#6 B#4 >A >B", "C#20 >C", "D#1 >D"]


def test_encode_works_on_equal_images_once() -> None:
    # B finds A's image; its own other image is encoded. C, later, finds both, and nothing is left to do.
    a = request("A", 9, 1, images=[image(6, 1)])
    b = request("B", 9, 1, images=[image(6, 1), image(3, 2)])
    c = request("C", 9, 1, images=[image(3, 2), image(6, 1)])
    assert play(encoder(max_patches=20), a, b, later={1: c}) == ["A#6 B#3 >A >B", "C= >C"]


def test_encode_waits_for_memory_until_embeddings_have_been_sent_on() -> None:
    # 4 blocks of 4 tokens: A's 8 tokens take 2 of them, B's 12 need 3.
    a = request("A", 9, 1, images=[image(5, 1, tokens=8)])
    b = request("B", 13, 1, images=[image(5, 2, tokens=12)])
    scheduler = encoder(embedding_blocks=4)
    assert play(scheduler, a, b) == ["A#5 >A"]
    assert play_round(scheduler) == "-"
    scheduler.release(a)
    assert play_round(scheduler) == "B#5 >B"


def test_images_whose_embeddings_are_there_take_nothing_of_the_patch_budget() -> None:
    # 10 patches an iteration: A's 6 leave 4, which is enough for B's 3; its other 6 are A's.
    a = request("A", 9, 1, images=[image(6, 1)])
    b = request("B", 9, 1, images=[image(6, 1), image(3, 2)])
    assert play(encoder(), a, b) == ["A#6 B#3 >A >B"]


# Pools that run all phases --------------------------------------------------------------------------
# A 4+3 is text. B 8+2 has an image of 6 patches, which makes up 4 of its prompt tokens.


def with_image() -> Request:
    return request("B", 8, 2, images=[image(6, 1)])


def embeddings() -> EmbeddingCache:
    return EmbeddingCache(4, 4)


def test_sarathi_encodes_beside_prompts_and_decodes() -> None:
    # 8 tokens an iteration, to which patches do not count; A's decode leaves 7 to B's prompt.
    scheduler = SarathiScheduler(KVCache(100, 4), embeddings(), max_tokens=8, max_batch=8)
    assert play(scheduler, request("A", 4, 3), with_image()) == [
        "A:4 B#6",
        "B:7.. A+1",
        "B:1@7 A+1 .A",
        "B+1 .B",
    ]


def test_unified_encodes_beside_prompts_and_decodes() -> None:
    scheduler = UnifiedScheduler(KVCache(100, 4), embeddings(), max_tokens=8, max_batch=8)
    assert play(scheduler, request("A", 4, 3), with_image()) == [
        "A:4 B#6",
        "B:7.. A+1",
        "B:1@7 A+1 .A",
        "B+1 .B",
    ]


def test_orca_encodes_beside_prompts_and_decodes() -> None:
    scheduler = OrcaScheduler(KVCache(100, 4), embeddings())
    assert play(scheduler, request("A", 4, 3), later={1: with_image()}) == [
        "A:4",
        "A+1 B#6",
        "B:8 A+1 .A",
        "B+1 .B",
    ]


def test_vllm_counts_images_as_prompt_work_and_lets_decodes_stall() -> None:
    scheduler = VllmScheduler(KVCache(100, 4), embeddings())
    assert play(scheduler, request("A", 4, 3), later={1: with_image()}) == [
        "A:4",
        "B#6",
        "B:8",
        "A+1 B+1 .B",
        "A+1 .A",
    ]


def test_static_encodes_between_two_batches() -> None:
    scheduler = StaticScheduler(KVCache(100, 4), embeddings())
    assert play(scheduler, request("A", 4, 3), later={1: with_image()}) == [
        "A:4",
        "A+1",
        "A+1 .A",
        "B#6",
        "B:8",
        "B+1 .B",
    ]


def test_embeddings_are_given_up_with_the_end_of_the_prompt() -> None:
    # 4 tokens an iteration: the prompt takes two.
    memory = embeddings()
    scheduler = SarathiScheduler(KVCache(100, 4), memory, max_tokens=4, max_batch=4)
    scheduler.add(with_image())
    assert [(play_round(scheduler), memory.used) for _ in range(3)] == [
        ("B#6", 1),
        ("B:4..", 1),
        ("B:4@4", 0),
    ]


def test_a_preempted_request_is_encoded_again_unless_its_embedding_is_still_there() -> None:
    # 4 blocks: A 6+7 takes 2, B 8+2 the other 2. 2: B's ninth token needs a block: B, the latest, goes.
    # 3: its embedding is found. Its 9 tokens need 3 blocks, and A leaves 2, then 1, until it ends in 7.
    scheduler = SarathiScheduler(KVCache(4, 4), embeddings(), watermark=0.0)
    assert play(scheduler, request("A", 6, 7), with_image()) == [
        "A:6 B#6",
        "B:8 A+1",
        "!B A+1 B=",
        "A+1",
        "A+1",
        "A+1",
        "A+1 .A",
        "B:9 .B",
    ]


def test_a_preempted_request_waits_for_one_that_is_between_two_images() -> None:
    # 3 KV blocks of 4 tokens, 3 embedding blocks of 1, 5 patches an iteration. B has an image of 2 blocks, C
    # one of 2 and one of 1.
    # 2: C's first image takes 2 of the 3 embedding blocks; B's image, idle by then, is evicted.
    # 3: B's fifth token needs a KV block: B goes. C, who keeps 2 embedding blocks until it has the third, is
    # still first: were it B, it would wait for C, and C for B.
    # 5: C has given up its embeddings, and B has room for its own. 6: its 3 prompt and 2 generated tokens.
    scheduler = SarathiScheduler(KVCache(3, 4), EmbeddingCache(3, 1), max_patches=5, watermark=0.0)
    b = request("B", 3, 4, images=[image(5, 1, tokens=2)])
    c = request("C", 3, 1, images=[image(5, 2, tokens=2), image(5, 3, tokens=1)])
    assert play(scheduler, request("A", 4, 5), b, later={2: c}) == [
        "A:4 B#5",
        "B:3 A+1",
        "A+1 B+1 C#5",
        "!B A+1 C#5",
        "C:3 A+1 .A .C",
        "B#5",
        "B:5",
        "B+1 .B",
    ]


# Prefix cache ---------------------------------------------------------------------------------------
# 4 tokens to a block; hashes name a prompt's full blocks.


def cached_kv(blocks: int = 100) -> KVCache:
    return KVCache(blocks, 4, prefix_cache=True)


def test_a_prompt_begins_after_the_blocks_that_are_cached() -> None:
    # A and B begin with the same 2 blocks: A's are shared as soon as they are taken. C's prompt ends with
    # them, and of the second its last token must be computed, so all of it is. D shares the first alone.
    for policy in (OrcaScheduler, VllmScheduler, SarathiScheduler, UnifiedScheduler):
        a, b = request("A", 10, 1, hashes=[1, 2]), request("B", 11, 1, hashes=[1, 2])
        c, d = request("C", 8, 1, hashes=[1, 2]), request("D", 12, 1, hashes=[1, 3, 4])
        lines = play(policy(cached_kv()), a, b, later={1: c, 2: d})
        assert lines == ["A:10 B:3@8 .A .B", "C:4@4 .C", "D:8@4 .D"]
        assert [each.cached_tokens for each in (a, b, c, d)] == [0, 8, 4, 4]


def test_static_starts_after_cached_blocks_too() -> None:
    a, b = request("A", 10, 1, hashes=[1, 2]), request("B", 11, 1, hashes=[1, 2])
    assert play(StaticScheduler(cached_kv()), a, b) == ["A:10 B:3@8 .A .B"]


def test_cached_tokens_cost_no_budget() -> None:
    # 8 tokens an iteration. A's 10 take two; in the second, 2 of them leave 6: enough for B's last 3.
    a, b = request("A", 10, 1, hashes=[1, 2]), request("B", 11, 1, hashes=[1, 2])
    lines = ["A:8..", "A:2@8 B:3@8 .A .B"]
    assert play(SarathiScheduler(cached_kv(), max_tokens=8, max_batch=8), a, b) == lines
    a, b = request("A", 10, 1, hashes=[1, 2]), request("B", 11, 1, hashes=[1, 2])
    assert play(UnifiedScheduler(cached_kv(), max_tokens=8, max_batch=8), a, b) == lines
    # Vllm takes whole prompts: A's 10 pass alone, being first; then B's 3, and the 5 of C, make just 8.
    a, b = request("A", 10, 1, hashes=[1, 2]), request("B", 11, 1, hashes=[1, 2])
    scheduler = VllmScheduler(cached_kv(), max_tokens=8)
    assert play(scheduler, a, b, request("C", 5, 1)) == ["A:10 .A", "B:3@8 C:5 .B .C"]


def test_cached_blocks_that_others_hold_cost_no_memory() -> None:
    # 4 blocks. A 10+2 takes 3. B 11+1 shares 2 of them and takes the fourth; without a cache it would wait.
    a, b = request("A", 10, 2, hashes=[1, 2]), request("B", 11, 1, hashes=[1, 2])
    assert play(SarathiScheduler(cached_kv(4), watermark=0.0), a, b) == ["A:10 B:3@8 .B", "A+1 .A"]
    a, b = request("A", 10, 2), request("B", 11, 1)
    assert play(SarathiScheduler(cached_kv(4), watermark=0.0), a, b) == ["A:10", "A+1 .A", "B:11 .B"]


def test_a_preempted_request_finds_what_is_left_of_its_own_blocks() -> None:
    # 4 blocks, A 6+6, B 8+3. 1: B's ninth token needs a block: B goes; its 2 blocks stay findable.
    # 3: A's ninth token takes the fourth block, so one of B's is evicted: the tail.
    # 6: B finds the first of its blocks, and computes the other 5 of its 9 tokens.
    a, b = request("A", 6, 6), request("B", 8, 3, hashes=[1, 2])
    assert play(VllmScheduler(cached_kv(4), watermark=0.0), a, b) == [
        "A:6 B:8",
        "!B A+1",
        "A+1",
        "A+1",
        "A+1",
        "A+1 .A",
        "B:5@4",
        "B+1 .B",
    ]
    assert b.cached_tokens == 0, "what it found of its own is not what it was spared"


def test_blocks_that_were_taken_but_never_computed_are_not_found() -> None:
    # 6 blocks, 6 tokens an iteration. 1: B's 16 tokens take the other 4 blocks, and 4 tokens are computed.
    # 2: A's ninth token needs a block: B goes. 3: A has ended; of B's blocks only the first was computed.
    scheduler = SarathiScheduler(cached_kv(6), max_tokens=6, max_batch=6, watermark=0.0)
    a, b = request("A", 8, 2), request("B", 16, 2, hashes=[1, 2, 3, 4])
    assert play(scheduler, a, b) == ["A:6..", "A:2@6 B:4..", "!B A+1 .A", "B:6@4..", "B:6@10", "B+1 .B"]
    # The same after an abort.
    scheduler = SarathiScheduler(cached_kv(), max_tokens=4, max_batch=4)
    a, b = request("A", 12, 2, hashes=[1, 2, 3]), request("B", 8, 1, hashes=[1, 2])
    scheduler.add(a)
    assert play_round(scheduler) == "A:4.."
    scheduler.abort(a)
    assert play(scheduler, b) == ["B:4@4 .B"]
