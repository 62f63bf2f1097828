"""The parts of the client by themselves."""

from __future__ import annotations

import asyncio
import threading
from math import isnan
from pathlib import Path
from time import sleep
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from triptych.bench.ahead import Ahead
from triptych.bench.answer import Answer
from triptych.bench.events import Events, Stream, error_message
from triptych.bench.images import draw_jpeg
from triptych.bench.server import Server
from triptych.bench.words import COMMON_WORDS, LETTERS, text_units
from triptych.policy import Status
from triptych.spec.base import SpecError


class TestEvents:
    @pytest.mark.parametrize("size", [1, 3, 7, 1000])
    def test_events_are_found_wherever_the_stream_is_cut(self, size: int) -> None:
        stream = b': ping\n\ndata: {"a": 1}\r\n\r\nevent: x\ndata:{"b": 2}\n\ndata: [DONE]\n\n'
        events = Events()
        found = [data for i in range(0, len(stream), size) for data in events.feed(stream[i : i + size])]
        assert found == [b'{"a": 1}', b'{"b": 2}', b"[DONE]"]

    def test_the_first_token_is_the_first_text(self) -> None:
        answer = Answer()
        stream = Stream(answer)
        stream.take(b'{"choices": [{"delta": {"role": "assistant", "content": ""}}]}', 1.0)
        stream.take(b'{"choices": [{"delta": {"content": "a"}}]}', 2.0)
        stream.take(b'{"choices": [{"delta": {"content": "b"}}]}', 3.0)
        stream.take(b'{"choices": [{"delta": {}, "finish_reason": "stop"}]}', 4.0)
        stream.close()
        assert (answer.first_token, list(answer.later_tokens), answer.end) == (2.0, [3.0], 4.0)
        assert answer.status is Status.FINISHED

    @pytest.mark.parametrize(("tokens", "first_token"), [(1, 2.0), (2, None)])
    def test_without_text_only_a_single_tokens_time_is_known(
        self, tokens: int, first_token: float | None
    ) -> None:
        answer = Answer()
        stream = Stream(answer)
        stream.take(b'{"choices": [{"text": "", "finish_reason": "length"}]}', 2.0)
        stream.take(b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": %d}}' % tokens, 3.0)
        stream.close()
        assert (answer.status, answer.end) == (Status.FINISHED, 2.0)
        assert answer.first_token == first_token or (first_token is None and isnan(answer.first_token))
        assert answer.unknown == (set() if tokens == 1 else {"ttft", "tpot", "itl"})

    @pytest.mark.parametrize("usage", [b"", b'"usage": {"prompt_tokens": 1, "completion_tokens": 0}, '])
    def test_an_answer_without_a_token_is_a_failure(self, usage: bytes) -> None:
        stream = Stream(Answer())
        stream.take(b"{" + usage + b'"choices": [{"text": "", "finish_reason": "stop"}]}', 2.0)
        with pytest.raises(ValueError, match="has no token"):
            stream.close()

    @pytest.mark.parametrize("reason", ["abort", "error"])
    def test_an_answer_that_the_server_broke_off_is_a_failure(self, reason: str) -> None:
        event = b'{"choices": [{"text": "a", "finish_reason": "%s"}]}' % reason.encode()
        with pytest.raises(ValueError, match=f"finish_reason '{reason}'"):
            Stream(Answer()).take(event, 2.0)

    def test_the_server_counts_the_tokens(self) -> None:
        answer = Answer()
        stream = Stream(answer)
        stream.take(b'{"choices": [{"text": "several tokens"}], "usage": null}', 1.0)
        assert answer.generated_tokens == 1
        usage = b'"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}'
        stream.take(b'{"choices": [], "usage": {' + usage + b"}}", 2.0)
        assert (answer.prompt_tokens, answer.generated_tokens, answer.cached_tokens) == (9, 3, 4)

    @pytest.mark.parametrize("data", [b"{", b"[]", b'{"choices": [1]}', b'{"usage": {"x": 1}}'])
    def test_what_is_no_event_is_an_error(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="unreadable event"):
            Stream(Answer()).take(data, 1.0)

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"error": {"message": "too long"}}, "too long"),
            ({"error": "too long"}, "too long"),
            ({"detail": "too long"}, "too long"),
            ("Bad Gateway", "Bad Gateway"),
        ],
    )
    def test_what_a_server_says_is_found(self, body: Any, words: str) -> None:
        assert error_message(body) == words


class _SlowBodies:
    """Bodies of 10 bytes."""

    def __init__(self, count: int, seconds: float = 0.0, broken: int = -1) -> None:
        self.count, self.seconds, self.broken = count, seconds, broken
        self.made = 0

    def __len__(self) -> int:
        return self.count

    def make(self, index: int) -> bytes:
        sleep(self.seconds)
        if index == self.broken:
            raise MemoryError("too large")
        self.made += 1
        return b"%010d" % index


class TestAhead:
    def test_bodies_come_in_order_and_few_are_held(self) -> None:
        bodies = _SlowBodies(200)

        async def take_all() -> list[int]:
            async with Ahead(cast(Any, bodies), held_bytes=50) as ahead:
                await ahead.fill()
                await asyncio.sleep(0.05)
                assert bodies.made <= 6 + threading.active_count()
                return [int(await ahead.take()) for _ in range(200)]

        assert asyncio.run(take_all()) == list(range(200))

    def test_a_body_that_is_not_ready_is_waited_for(self) -> None:
        async def take_all() -> list[int]:
            async with Ahead(cast(Any, _SlowBodies(20, seconds=0.005))) as ahead:
                return [int(await ahead.take()) for _ in range(20)]

        assert asyncio.run(take_all()) == list(range(20))

    def test_what_goes_wrong_in_a_thread_is_raised(self) -> None:
        async def take_all() -> None:
            async with Ahead(cast(Any, _SlowBodies(20, broken=10))) as ahead:
                for _ in range(20):
                    await ahead.take()

        with pytest.raises(MemoryError):
            asyncio.run(take_all())


class TestWords:
    def test_words_of_a_tokenizer_are_one_token_each(self, tmp_path: Path) -> None:
        tokenizers = pytest.importorskip("tokenizers")
        vocabulary = {f"{a}{b}{c}": i for i, (a, b, c) in enumerate(np.ndindex(4, 5, 5))}
        names = {name.translate(str.maketrans("01234", "abcde")): i for name, i in vocabulary.items()}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({**names, "?": 100}, "?"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        units = text_units(tmp_path)[0]
        assert set(units.words) == set(names)
        assert len(tokenizer.encode(units.spell([5, 5, 7, 9])).ids) == 4

    def test_a_vocabulary_without_words_spells_letters(self, tmp_path: Path) -> None:
        tokenizers = pytest.importorskip("tokenizers")
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, []))
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        assert text_units(tmp_path)[0] == LETTERS

    def test_without_a_tokenizer_common_words_are_tried(self) -> None:
        assert text_units(None)[0] == COMMON_WORDS
        assert COMMON_WORDS.size >= 64

    def test_a_missing_tokenizer_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"tokenizer.json: --tokenizer: no such file"):
            text_units(tmp_path)


class TestImages:
    def test_equal_contents_are_equal_images(self) -> None:
        assert draw_jpeg(0, 1, 64, 48) == draw_jpeg(0, 1, 64, 48)
        assert draw_jpeg(0, 1, 64, 48) != draw_jpeg(0, 2, 64, 48)
        assert draw_jpeg(0, 1, 64, 48) != draw_jpeg(1, 1, 64, 48)

    def test_the_smallest_image_is_one(self, tmp_path: Path) -> None:
        (tmp_path / "i.jpg").write_bytes(draw_jpeg(0, 1, 1, 1))
        assert Image.open(tmp_path / "i.jpg").size == (1, 1)


class TestServer:
    @pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://a/v1", "http://"])
    def test_what_is_no_address_is_refused(self, url: str) -> None:
        with pytest.raises(SpecError, match="is no address; write it like"):
            Server(url)


def test_an_answer_without_tokens_has_none() -> None:
    answer = Answer()
    answer.fail("gone", 1.0)
    assert (answer.status, answer.events, answer.generated_tokens) == (Status.REJECTED, 0, 0)
