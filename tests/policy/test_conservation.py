"""Random requests, knobs, deployments, aborts: nothing is lost, invented or stuck, and a jump is a step."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triptych.policy import (
    SCHEDULERS,
    Batch,
    Chunk,
    EmbeddingCache,
    Image,
    KVCache,
    Phase,
    Request,
    Scheduler,
    Status,
)

from .world import Plan, World

POLICIES = ["static", "orca", "vllm", "sarathi", "unified"]
LAYOUTS = ["EPD", "EPD EPD", "E PD", "EP D", "EP PD", "ED P", "E P D", "E P P D D"]
"""Deployments: the phases that each instance runs."""
PHASES = {"E": Phase.ENCODE, "P": Phase.PREFILL, "D": Phase.DECODE}
BLOCK = 4
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


class Case:
    """Random requests and knobs, from which equal worlds can be built again and again."""

    def __init__(self, data: st.DataObject, policy: str) -> None:
        draw = data.draw
        self.policy = policy
        self.layout = draw(st.sampled_from(LAYOUTS), label="layout").split()
        self.prefix_cache = draw(st.booleans(), label="prefix cache")
        with_images = draw(st.booleans(), label="images")
        contents = st.lists(st.integers(0, 4), max_size=3) if with_images else st.just([])
        one = st.tuples(st.integers(1, 20), st.integers(1, 12), contents, st.integers(0, 2))
        self.requests = draw(st.lists(one, min_size=1, max_size=7), label="prompt, output, images, prefix")
        count = len(self.requests)
        self.arrivals = draw(st.lists(st.integers(0, 15), min_size=count, max_size=count), label="arrivals")
        self.aborts = draw(st.dictionaries(st.integers(0, 6), st.integers(0, 40), max_size=3), label="aborts")
        built = self.build_requests()
        self.blocks = max(-(-each.longest_context // BLOCK) for each in built)
        self.blocks += draw(st.integers(0, 6), label="more blocks than the longest needs")
        self.embedding_blocks = max(sum(-(-image.tokens // BLOCK) for image in each.images) for each in built)
        self.embedding_blocks += draw(st.integers(0, 2), label="more embedding blocks than that")
        self.max_batch = draw(st.integers(1, 5), label="max_batch")
        self.max_tokens = self.max_batch + draw(st.integers(0, 10), label="max_tokens, beyond max_batch")
        self.max_patches = draw(st.integers(1, 12), label="max_patches")
        self.watermark = draw(st.sampled_from([0.0, 0.1, 0.4]), label="watermark")
        self.delay = draw(st.integers(1, 4), label="ticks of a transfer")

    def build_requests(self) -> list[Request]:
        """Fresh requests; those of one family share a prefix as far as both go."""
        requests = []
        for number, (prompt, output, contents, family) in enumerate(self.requests):
            images = tuple(Image(patches=1 + 2 * n, tokens=1 + n, content=n) for n in contents)
            prompt += sum(image.tokens for image in images)
            hashes = tuple(100 * family + n for n in range(prompt // BLOCK)) if self.prefix_cache else ()
            phase = Phase.ENCODE if images else Phase.PREFILL
            requests.append(Request(number, prompt, output, images, hashes, phase))
        return requests

    def build_scheduler(self, phases: str) -> Scheduler:
        """An instance that runs these phases."""
        embeddings = EmbeddingCache(self.embedding_blocks, BLOCK) if set(phases) & set("EP") else None
        return SCHEDULERS["encode" if phases == "E" else self.policy](
            KVCache(0 if phases == "E" else self.blocks, BLOCK, prefix_cache=self.prefix_cache),
            embeddings,
            phases=[PHASES[letter] for letter in phases],
            max_batch=self.max_batch,
            max_tokens=self.max_tokens,
            max_patches=self.max_patches,
            watermark=self.watermark,
        )

    def build(self, kind: type[World] = World, *, jump: bool = False) -> World:
        """The same world every time."""
        schedulers = [self.build_scheduler(phases) for phases in self.layout]
        plan = Plan(self.build_requests(), self.arrivals, self.aborts)
        return kind(schedulers, plan, delay=self.delay, jump=jump)


class Audited(World):
    """A world in which the books are checked at every tick."""

    def __init__(self, *args: object, **knobs: object) -> None:
        super().__init__(*args, **knobs)  # type: ignore[arg-type]
        self.tokens = dict.fromkeys(self.plan.requests, 0)
        """Tokens that each request was given."""
        self.computed: dict[Request, int] = {}
        """Context that prefill has come to with each request since its admission."""
        self.known: list[set[int]] = [set() for _ in self.schedulers]
        """By instance, hashes of the blocks that have ever been computed there, or sent there."""

    def formed(self, instance: int, batch: Batch) -> None:
        scheduler = self.schedulers[instance]
        assert scheduler.running <= scheduler.max_batch
        for chunk in batch.chunks:
            self.check_chunk(chunk, self.known[instance])
        if batch.decodes:
            assert batch.decodes == len(scheduler.decodes.members)
            contexts = [scheduler.decodes.context(member) for member in scheduler.decodes.members]
            assert batch.decode_kv == sum(contexts) + len(contexts)
            for member in scheduler.decodes.members:
                self.tokens[member] += 1

    def preempted(self, request: Request) -> None:
        self.computed.pop(request, None)

    def landed(self, instance: int, request: Request) -> None:
        if request.phase is Phase.DECODE:
            self.known[instance].update(request.block_hashes)

    def check_chunk(self, chunk: Chunk, known: set[int]) -> None:
        request, reach = chunk.request, chunk.history + chunk.tokens
        if request in self.computed:
            assert chunk.history == self.computed[request], "a chunk goes on where the one before it ended"
        else:
            assert chunk.history % BLOCK == 0, "an admission begins after whole cached blocks"
            hits = request.block_hashes[: chunk.history // BLOCK]
            assert known.issuperset(hits), "what was found in the cache was never computed"
            if request.preemptions == 0:
                assert chunk.history == request.cached_tokens
        self.computed[request] = reach
        known.update(request.block_hashes[: reach // BLOCK])
        assert chunk.tokens > 0
        assert chunk.last == (reach == request.prefill_tokens)
        if chunk.last:
            del self.computed[request]
            self.tokens[request] += 1

    def between_batches(self) -> None:
        for scheduler in self.schedulers:
            check_kv(scheduler)
            check_embeddings(scheduler)


def check_kv(scheduler: Scheduler) -> None:
    """What requests hold, shared blocks counted once, is what the cache says is used."""
    kv, decodes = scheduler.kv, scheduler.decodes
    holdings = [(held.blocks, held.hashes) for held in scheduler.held.values()]
    for queue in (scheduler.prefilling, scheduler.receiving, scheduler.landed):
        holdings += [(each.blocks, each.block_hashes[: each.shared_blocks]) for each in queue]
    for member in decodes.members:
        context = decodes.context(member)
        blocks = -(-context // kv.block_size) if scheduler.grows else member.blocks
        holdings.append((blocks, member.block_hashes[: member.shared_blocks]))
    shared = {block_hash for _, hashes in holdings for block_hash in hashes}
    assert kv.used == len(shared) + sum(blocks - len(hashes) for blocks, hashes in holdings)
    assert 0 <= kv.free <= kv.blocks
    assert len(shared) <= kv.cached <= kv.blocks


def check_embeddings(scheduler: Scheduler) -> None:
    """What requests claim, equal images counted once, is what the cache says is used."""
    if scheduler.embeddings is None:
        return
    claimed = {image for held in scheduler.held.values() for image in held.images}
    for queue in (scheduler.unencoded, scheduler.waiting, scheduler.prefilling, scheduler.receiving):
        claimed |= {image for each in queue for image in each.images[: each.encoded_images]}
    assert scheduler.embeddings.used == sum(-(-image.tokens // BLOCK) for image in claimed)


def run(world: World) -> None:
    """Runs a world until all requests have ended."""
    while not world.over:
        world.tick()
        assert world.now < 5_000, "it does not come to an end"
    world.tick()


@pytest.mark.parametrize("policy", POLICIES)
@SETTINGS
@given(data=st.data())
def test_every_request_ends_once_and_nothing_is_left(policy: str, data: st.DataObject) -> None:
    case = Case(data, policy)
    world = case.build(Audited)
    assert isinstance(world, Audited)
    run(world)
    for request in world.plan.requests:
        assert world.ended[request] == 1
        assert request.generated_tokens == world.tokens[request]
        if request.status is Status.FINISHED:
            assert request.generated_tokens == request.output_tokens
            assert request.context_tokens == request.longest_context
        else:
            assert request.status is Status.ABORTED
            assert request.id in case.aborts
        if policy in ("static", "orca"):
            assert request.preemptions == 0
        assert (request.blocks, request.shared_blocks, request.encoded_images) == (0, 0, 0)
    for scheduler in world.schedulers:
        assert len(scheduler) == 0
        assert not scheduler.held
        assert scheduler.kv.free == scheduler.kv.blocks
        assert scheduler.decodes.context_tokens == 0
        assert scheduler.embeddings is None or scheduler.embeddings.used == 0


class Budgeted(World):
    """A world in which what a batch may hold is checked."""

    def formed(self, instance: int, batch: Batch) -> None:
        scheduler = self.schedulers[instance]
        policy = next(name for name, kind in SCHEDULERS.items() if type(scheduler) is kind)
        patches = sum(image.patches for _, image in batch.images)
        assert patches <= scheduler.max_patches or len(batch.images) == 1
        assert len({image.content for _, image in batch.images}) == len(batch.images)
        if policy in ("sarathi", "unified"):
            assert batch.tokens <= scheduler.max_tokens
            assert sum(not chunk.last for chunk in batch.chunks) <= 1
        else:
            assert all(chunk.last for chunk in batch.chunks), "prompts are whole"
        if policy == "vllm":
            assert batch.prefill_tokens <= scheduler.max_tokens or len(batch.chunks) == 1
            assert not (batch.decodes and (batch.chunks or batch.images))
        if policy == "static" and batch.chunks:
            decodes = scheduler.decodes
            assert all(each.joined_step == decodes.step for each in decodes.members), "a batch begins anew"
        assert batch.padding == 0 or policy == "static"
        assert batch.repeat == 1 or not (batch.images or batch.encoded)
        assert batch.repeat == 1 or [chunk.last for chunk in batch.chunks] in ([], [False])
        assert batch.repeat >= 1


@pytest.mark.parametrize("policy", POLICIES)
@SETTINGS
@given(data=st.data())
def test_batches_keep_within_their_budgets(policy: str, data: st.DataObject) -> None:
    run(Case(data, policy).build(Budgeted))


@pytest.mark.parametrize("policy", POLICIES)
@SETTINGS
@given(data=st.data())
def test_a_batch_run_many_times_is_as_many_batches(policy: str, data: st.DataObject) -> None:
    case = Case(data, policy)
    stepped, jumped = case.build(), case.build(jump=True)
    run(stepped)
    run(jumped)
    assert sorted(jumped.events) == sorted(stepped.events)
