"""The engine: same text as generate(), alone or in company; limits, cancellation, failure, streaming."""

import asyncio
import random
import threading
import time

import pytest
import torch

from llmrouter.exceptions import (
    ContextLengthError,
    EngineStoppedError,
    GenerationFailedError,
    GenerationRequestError,
    QueueFullError,
)
from llmrouter.moe import EngineWorker, GenerationRequest, load_engine

WORDS = ["what", "is", "the", "Größe", "of", "東京", "🙂", "and", "quick", "brown", "foxes"]


def mixed_requests(chat, count, seed=0, **values):
    draw = random.Random(seed)
    return [
        chat(" ".join(draw.choices(WORDS, k=draw.randrange(1, 12))), max_tokens=draw.randrange(1, 24), **values)
        for _ in range(count)
    ]


def prompt_ids(engine, request):
    return engine.vocabulary.encode(engine.vocabulary.render(request.messages), special_tokens=False)


def wait_until(condition):
    for _ in range(12000):
        if condition():
            return
        time.sleep(0.005)
    pytest.fail("the condition did not come true")


class TestRun:
    def test_greedy_tokens_are_those_of_generate(self, engine, chat):
        requests = mixed_requests(chat, 32)
        for request, result in list(zip(requests, engine.run(requests), strict=True))[:8]:
            prompt = prompt_ids(engine, request)
            with torch.inference_mode():
                full = engine.model.generate(torch.tensor([prompt]), max_new_tokens=request.max_tokens, do_sample=False)
            generated = full[0, len(prompt) :].tolist()
            assert result.text == engine.vocabulary.decode(generated)
            assert (result.input_tokens, result.output_tokens) == (len(prompt), len(generated))
            ended = generated[-1] == engine.vocabulary._tokenizer.eos_token_id
            assert result.finish_reason == ("stop" if ended else "length")

    def test_batched_equals_alone(self, engine, chat):
        requests = mixed_requests(chat, 8, logprobs=True, top_logprobs=2)
        together = engine.run(requests)
        for request, batched in zip(requests, together, strict=True):
            [alone] = engine.run([request])
            assert alone.text == batched.text
            assert [entry.logprob for entry in alone.logprobs] == pytest.approx(
                [entry.logprob for entry in batched.logprobs], abs=1e-5
            )

    def test_a_seed_gives_the_same_text_alone_and_in_company(self, engine, chat):
        seeded = [chat("foxes", max_tokens=20, temperature=1.0, seed=seed) for seed in range(6)]
        truncated = mixed_requests(chat, 10, temperature=0.7, top_p=0.9, top_k=20)
        together = [result.text for result in engine.run([*seeded, *truncated])[:6]]
        assert together == [engine.run([request])[0].text for request in seeded]
        assert len(set(together)) > 1

    def test_without_a_seed_texts_differ(self, engine, chat):
        texts = {result.text for result in engine.run([chat("foxes", max_tokens=20, temperature=1.5)] * 5)}
        assert len(texts) > 1

    def test_logprobs_match_a_direct_forward(self, engine, chat):
        request = chat("the quick brown", max_tokens=24, logprobs=True, top_logprobs=3)
        [result] = engine.run([request])
        prompt = prompt_ids(engine, request)
        with torch.inference_mode():
            full = engine.model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
            expected = engine.model(full).logits[0].log_softmax(-1)
        generated = full[0, len(prompt) :].tolist()
        texts = [token for token in generated if token != engine.vocabulary._tokenizer.eos_token_id]
        assert len(result.logprobs) == len(texts)
        for place, (token, entry) in enumerate(zip(texts, result.logprobs, strict=True), start=len(prompt) - 1):
            assert entry.bytes == engine.vocabulary.token_bytes(token)
            assert entry.logprob == pytest.approx(expected[place, token].item(), abs=1e-4)
            values, ids = expected[place].topk(3)
            assert [other.logprob for other in entry.top] == pytest.approx(values.tolist(), abs=1e-4)
            assert [other.bytes for other in entry.top] == list(map(engine.vocabulary.token_bytes, ids.tolist()))

    @pytest.mark.parametrize("length", [1, 2, 3])
    def test_stop_strings_cut_the_text_and_its_logprobs(self, engine, chat, length):
        [whole] = engine.run([chat("hello", max_tokens=40, logprobs=True)])
        assert len(whole.text) > 15
        stop = whole.text[10 : 10 + length]
        [cut] = engine.run([chat("hello", max_tokens=40, logprobs=True, stop=stop)])
        assert cut.text == whole.text[: whole.text.index(stop)]
        assert cut.finish_reason == "stop"
        assert cut.output_tokens <= whole.output_tokens
        joined = b"".join(entry.bytes for entry in cut.logprobs)
        assert joined.startswith(cut.text.encode().split("\ufffd".encode())[0])
        assert cut.logprobs == whole.logprobs[: len(cut.logprobs)]

    def test_the_context_window_ends_a_completion(self, checkpoints, chat):
        engine = load_engine(checkpoints["qwen3_moe"], context_window=30)
        [result] = engine.run([chat("hello", max_tokens=1000, temperature=1.0, seed=1)])
        assert result.input_tokens + result.output_tokens <= 30
        if result.finish_reason == "length":
            assert result.input_tokens + result.output_tokens == 30

    def test_a_prompt_beyond_the_window_is_refused(self, engine, chat):
        with pytest.raises(ContextLengthError, match="maximum context length is 256 tokens") as caught:
            engine.run([chat("hello"), chat("fox " * 400)])
        assert caught.value.param == "messages"
        assert caught.value.context_window == 256
        assert engine.stats().waiting == 0

    def test_a_raw_prompt_uses_no_template(self, engine):
        [result] = engine.run([GenerationRequest(prompt="fox", max_tokens=2)])
        assert result.input_tokens == len(engine.vocabulary.encode("fox", special_tokens=True))

    def test_more_requests_than_places(self, mixtral, chat):
        requests = mixed_requests(chat, 9)
        assert [result.text for result in mixtral.run(requests)] == [
            result.text for request in requests for result in mixtral.run([request])
        ]
        assert mixtral.stats().running == 0

    def test_the_checkpoints_sampling_default_is_used(self, checkpoints, tmp_path, chat):
        import shutil

        folder = shutil.copytree(checkpoints["olmoe"], tmp_path / "m")
        (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 1.8}')
        engine = load_engine(folder)
        texts = {result.text for result in engine.run([chat("foxes", max_tokens=12)] * 6)}
        assert len(texts) > 1
        [explicit] = engine.run([chat("foxes", max_tokens=12, temperature=0)])
        [greedy] = load_engine(checkpoints["olmoe"]).run([chat("foxes", max_tokens=12)])
        assert explicit.text == greedy.text


class TestRequests:
    @pytest.mark.parametrize(
        ("values", "param"),
        [
            ({"max_tokens": 0}, "max_tokens"),
            ({"temperature": -0.1}, "temperature"),
            ({"temperature": float("nan")}, "temperature"),
            ({"temperature": 2.1}, "temperature"),
            ({"top_p": 0.0}, "top_p"),
            ({"top_p": 1.5}, "top_p"),
            ({"top_k": -1}, "top_k"),
            ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
            ({"top_logprobs": 1}, "top_logprobs"),
            ({"stop": ""}, "stop"),
            ({"stop": ["a"] * 5}, "stop"),
            ({"prompt": "x"}, "messages"),
            ({"messages": []}, "messages"),
            ({"messages": None}, "messages"),
        ],
    )
    def test_a_value_out_of_range_is_refused(self, values, param):
        with pytest.raises(GenerationRequestError) as caught:
            GenerationRequest(**{"messages": [{"role": "user", "content": "x"}], **values})
        assert caught.value.param == param

    @pytest.mark.parametrize(
        ("message", "param"),
        [
            ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
            ({"role": "function", "content": "x"}, "messages[0].role"),
            ({"content": "x"}, "messages[0].role"),
            ({"role": "user"}, "messages[0].content"),
            ({"role": "user", "content": 3}, "messages[0].content"),
            ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0]"),
            ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
            ({"role": "assistant", "content": "the template refuses this"}, "messages"),
        ],
    )
    def test_a_message_it_cannot_take_is_refused(self, engine, message, param):
        with pytest.raises(GenerationRequestError) as caught:
            engine.run([GenerationRequest(messages=[message])])
        assert caught.value.param == param

    def test_text_parts_and_developer_role(self, engine):
        parts = [{"type": "text", "text": "quick "}, {"type": "text", "text": "fox"}]
        rendered = engine.vocabulary.render(
            [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]
        )
        assert rendered == "<|start|>system\nbe brief<|end|><|start|>user\nquick fox<|end|><|start|>assistant\n"

    def test_an_empty_prompt_is_refused(self, engine):
        with pytest.raises(GenerationRequestError, match="no tokens"):
            engine.run([GenerationRequest(prompt="")])

    def test_messages_need_a_chat_template(self, checkpoints, tmp_path, chat):
        import shutil

        folder = shutil.copytree(checkpoints["olmoe"], tmp_path / "m")
        (folder / "chat_template.jinja").unlink()
        engine = load_engine(folder)
        with pytest.raises(GenerationRequestError, match="no chat template"):
            engine.run([chat("hello")])
        assert engine.run([GenerationRequest(prompt="hello", max_tokens=2)])


class TestServing:
    def test_many_threads_get_the_texts_of_run(self, mixtral, chat):
        mixtral.max_queue = 1000
        requests = mixed_requests(chat, 12)
        expected = [result.text for result in mixtral.run(requests)]
        mixtral.start()
        texts = [""] * len(requests)

        def ask(index):
            texts[index] = mixtral.submit(requests[index]).wait(60).text

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(requests))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts == expected
        assert [result.text for result in mixtral.run(requests)] == expected  # run() through the worker

    async def test_deltas_join_to_the_text(self, mixtral, chat):
        [expected] = mixtral.run([chat("hello", max_tokens=30, logprobs=True)])
        mixtral.start()
        handle = mixtral.submit(chat("hello", max_tokens=30, logprobs=True))
        deltas = [delta async for delta in handle]
        assert "".join(delta.text for delta in deltas) == expected.text
        assert tuple(entry for delta in deltas for entry in delta.logprobs) == expected.logprobs
        assert len(deltas) > 5
        result = await handle.result()
        assert (result.text, result.output_tokens) == (expected.text, expected.output_tokens)
        assert 0 < result.time_to_first_token_s <= result.latency_s

    async def test_requests_join_a_batch_that_runs(self, mixtral, chat):
        mixtral._end_tokens = frozenset()
        expected = [result.text for result in mixtral.run([chat("one", max_tokens=60), chat("two", max_tokens=5)])]
        mixtral.start()
        long = mixtral.submit(chat("one", max_tokens=60))
        stream = aiter(long)
        head = await anext(stream)
        short = await mixtral.submit(chat("two", max_tokens=5)).result()
        assert not long.done  # the newcomer was not made to wait for it
        assert short.text == expected[1]
        assert head.text + "".join([delta.text async for delta in stream]) == expected[0]

    async def test_cancelling_frees_the_place(self, mixtral, chat):
        mixtral._end_tokens = frozenset()
        mixtral.start()
        handles = [mixtral.submit(chat("one", max_tokens=230, temperature=1.0, seed=0)) for _ in range(3)]
        async for _ in handles[0]:
            break
        handles[0].cancel()
        with pytest.raises(GenerationFailedError, match="cancelled"):
            await handles[0].result()
        assert mixtral.stats().running <= 2
        for handle in handles[1:]:
            handle.cancel()
            with pytest.raises(GenerationFailedError, match="cancelled"):
                [delta async for delta in handle]
        assert mixtral.stats().running == 0
        assert mixtral._batch._cache._stores == {}
        assert (await mixtral.submit(chat("two", max_tokens=3)).result()).output_tokens <= 3

    def test_a_full_queue_refuses_and_waiting_requests_can_be_cancelled(self, mixtral, chat):
        mixtral.start()
        with mixtral._step_lock:  # hold the worker still
            handles = [mixtral.submit(chat("hello", max_tokens=3)) for _ in range(mixtral.max_queue)]
            with pytest.raises(QueueFullError, match="3 requests waiting") as caught:
                mixtral.submit(chat("hello"))
            assert caught.value.retry_after_s > 0
            handles[1].cancel()
        assert handles[0].wait(60).text == handles[2].wait(60).text
        with pytest.raises(GenerationFailedError, match="cancelled"):
            handles[1].wait(60)

    def test_stopping_ends_what_runs_and_refuses_more(self, mixtral, chat):
        with pytest.raises(EngineStoppedError, match="start"):
            mixtral.submit(chat("hello"))
        mixtral._end_tokens = frozenset()
        mixtral.start()
        assert mixtral.alive
        handle = mixtral.submit(chat("hello", temperature=1.0, seed=0))
        mixtral.stop()
        mixtral.stop()
        with pytest.raises(EngineStoppedError, match="stopped"):
            handle.wait(60)
        with pytest.raises(EngineStoppedError):
            mixtral.submit(chat("hello"))
        assert not mixtral.alive
        mixtral.start()
        assert mixtral.submit(chat("hello", max_tokens=2)).wait(60).output_tokens <= 2

    def test_engines_share_a_worker(self, checkpoints, chat):
        worker = EngineWorker()
        pair = [load_engine(checkpoints[name]) for name in ("mixtral", "olmoe")]
        before = threading.active_count()
        for engine in pair:
            engine.start(worker)
        assert threading.active_count() == before + 1
        handles = [engine.submit(chat("hello", max_tokens=20)) for engine in pair for _ in range(3)]
        assert all(handle.wait(60).output_tokens for handle in handles)
        pair[0].stop()
        assert worker.alive
        assert pair[1].submit(chat("hello", max_tokens=2)).wait(60)
        pair[1].stop()
        assert not worker.alive

    def test_a_failing_forward_pass_fails_its_requests_only(self, mixtral, chat, monkeypatch):
        mixtral.start()
        with monkeypatch.context() as broken:
            broken.setattr(mixtral._batch, "decode", lambda tokens: 1 / 0)
            with pytest.raises(GenerationFailedError, match="division"):
                mixtral.submit(chat("hello", max_tokens=8)).wait(60)
        assert mixtral.stats().running == 0
        assert mixtral.submit(chat("hello", max_tokens=8)).wait(60).text

    def test_weights_that_give_nan_are_reported(self, mixtral, chat):
        with torch.no_grad():
            mixtral.model.lm_head.weight.fill_(float("nan"))
        with pytest.raises(GenerationFailedError, match="not finite"):
            mixtral.run([chat("hello")])
        assert mixtral.stats().running == 0

    def test_a_handle_belongs_to_one_event_loop(self, mixtral, chat):
        mixtral.start()
        handle = mixtral.submit(chat("hello", max_tokens=2))  # no loop runs here
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(handle.result())
        assert handle.wait(60)

    def test_waiting_has_a_limit(self, mixtral, chat):
        mixtral.start()
        with mixtral._step_lock:
            handle = mixtral.submit(chat("hello", max_tokens=2))
            with pytest.raises(TimeoutError):
                handle.wait(0.05)
        assert handle.wait(60).output_tokens <= 2

    def test_a_closed_event_loop_cancels(self, mixtral, chat):
        mixtral.start()

        async def leave():
            handle = mixtral.submit(chat("hello", temperature=1.0, seed=0))
            await anext(aiter(handle))
            return handle

        handle = asyncio.run(leave())
        wait_until(lambda: handle.done)
        assert mixtral.stats().running == 0
