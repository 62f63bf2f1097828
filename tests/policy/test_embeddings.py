"""Memory for image embeddings: shared by content, claimed image by image, given back to an LRU."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from triptych.policy import EmbeddingCache, Image, Request


def request(*images: Image) -> Request:
    return Request(id=0, prompt_tokens=100, output_tokens=1, images=images)


def image(content: int, tokens: int = 4) -> Image:
    return Image(patches=1, tokens=tokens, content=content)


def test_an_image_takes_whole_blocks() -> None:
    cache = EmbeddingCache(10, 4)
    assert cache.claim(request(image(1, tokens=5))) is False
    assert (cache.used, cache.free) == (2, 8)


def test_a_request_claims_its_images_in_order() -> None:
    cache, asker = EmbeddingCache(10, 4), request(image(1), image(2, tokens=8))
    assert (cache.claim(asker), asker.encoded_images, cache.used) == (False, 1, 1)
    assert (cache.claim(asker), asker.encoded_images, cache.used) == (False, 2, 3)
    cache.release(asker)
    assert (asker.encoded_images, cache.used) == (0, 0)


def test_equal_images_share_one_entry() -> None:
    cache, first, second = EmbeddingCache(10, 4), request(image(1)), request(image(1))
    assert cache.claim(first) is False
    assert cache.claim(second) is True
    assert cache.used == 1
    cache.release(first)
    assert cache.used == 1, "the second still claims it"
    cache.release(second)
    assert cache.used == 0


def test_equal_images_of_one_request_share_one_entry() -> None:
    cache, asker = EmbeddingCache(10, 4), request(image(1), image(1))
    assert [cache.claim(asker), cache.claim(asker)] == [False, True]
    assert cache.used == 1
    cache.release(asker)
    assert cache.used == 0


def test_an_embedding_stays_findable_until_its_room_is_needed() -> None:
    cache, gone = EmbeddingCache(3, 4), request(image(1, tokens=8))
    cache.claim(gone)
    cache.release(gone)
    assert cache.free == 3, "idle entries count as free"
    cache.claim(request(image(2)))
    again = request(image(1, tokens=8))
    assert cache.claim(again) is True
    cache.release(again)
    cache.claim(request(image(3, tokens=8)))
    assert cache.free == 0
    assert cache.claim(request(image(1, tokens=8))) is None


def test_the_least_recently_used_goes_first() -> None:
    cache = EmbeddingCache(2, 4)
    for content in (1, 2, 1):
        each = request(image(content))
        cache.claim(each)
        cache.release(each)
    cache.claim(request(image(3)))
    assert cache.claim(request(image(1))) is True, "it was used again after image 2"


def test_without_room_nothing_changes() -> None:
    cache = EmbeddingCache(3, 4)
    idle = request(image(1))
    cache.claim(idle)
    cache.release(idle)
    cache.claim(request(image(2, tokens=8)))
    asker = request(image(3, tokens=8))
    assert cache.claim(asker) is None
    assert (asker.encoded_images, cache.free) == (0, 1)
    assert cache.claim(request(image(1))) is True, "nothing was evicted in vain"


def test_all_images_are_claimed_or_none() -> None:
    cache = EmbeddingCache(3, 4)
    large, small = request(image(1, tokens=8), image(2, tokens=8)), request(image(3), image(4, tokens=8))
    assert not cache.claim_all(large)
    assert (large.encoded_images, cache.free) == (0, 3)
    assert cache.claim_all(small)
    assert (small.encoded_images, cache.free) == (2, 0)


def test_embeddings_that_found_no_room_to_be_sent_to_are_not_found() -> None:
    cache = EmbeddingCache(3, 4)
    assert not cache.claim_all(request(image(1, tokens=8), image(2, tokens=8)))
    assert cache.claim(request(image(1, tokens=8))) is False


def test_claims_can_be_given_back_by_image() -> None:
    cache, asker = EmbeddingCache(3, 4), request(image(1), image(2))
    cache.claim_all(asker)
    cache.give_back([image(1)])
    assert cache.free == 2


def test_a_request_fits_if_its_images_could_be_held_together() -> None:
    cache = EmbeddingCache(3, 4)
    assert cache.fits(request())
    assert cache.fits(request(image(1, tokens=8), image(2)))
    assert not cache.fits(request(image(1, tokens=8), image(2, tokens=5)))


class Sharing(RuleBasedStateMachine):
    """Random use of 6 blocks of 2 tokens, beside a list of what is claimed and one of what is idle."""

    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.cache = EmbeddingCache(6, 2)
        self.claims: list[Image] = []
        self.idle: list[Image] = []

    @rule(target=requests, contents=st.lists(st.integers(0, 5), min_size=1, max_size=3))
    def come(self, contents: list[int]) -> Request:
        """The size of an image follows from its content, as it does in life."""
        return request(*[image(content, tokens=1 + content) for content in contents])

    @rule(asker=requests)
    def claim(self, asker: Request) -> None:
        if asker.encoded_images == len(asker.images):
            return
        wanted = asker.images[asker.encoded_images]
        room = size(wanted) <= 6 - claimed(self.claims)
        there = wanted in self.claims or wanted in self.idle
        answer = self.cache.claim(asker)
        if not there and not room:
            assert answer is None
            return
        assert answer is there
        self.claims.append(wanted)
        if wanted in self.idle:
            self.idle.remove(wanted)
        while sum(map(size, self.idle)) > 6 - claimed(self.claims):
            self.idle.pop(0)

    @rule(asker=consumes(requests))
    def release(self, asker: Request) -> None:
        given = asker.images[: asker.encoded_images]
        self.cache.release(asker)
        for each in given:
            self.claims.remove(each)
            if each not in self.claims:
                self.idle.append(each)

    @invariant()
    def no_block_is_lost_or_invented(self) -> None:
        assert self.cache.used == claimed(self.claims)
        assert self.cache.free == 6 - claimed(self.claims)


def size(image: Image) -> int:
    """In blocks of 2 tokens."""
    return (image.tokens + 1) // 2


def claimed(images: list[Image]) -> int:
    """Blocks of these images, equal ones counted once."""
    return sum(size(each) for each in set(images))


TestSharing = Sharing.TestCase
TestSharing.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
