"""The HTTP face: OpenAI's shapes, errors, limits, and hang-ups."""

import asyncio
import json
import socket

import httpx
import pytest

from llmrouter.exceptions import ConfigError
from llmrouter.moe import GenerationRequest
from service.moe import _chat, create_app

LONG = {"max_tokens": 900, "temperature": 1.0, "seed": 0}


def events(response):
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = [block for block in response.text.split("\n\n") if block]
    assert all(block.startswith("data: ") for block in blocks)
    assert blocks[-1] == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


class TestAnswers:
    def test_a_completion(self, running, ask):
        response = ask(logprobs=True, top_logprobs=2)
        body = response.json()
        [expected] = running.engines["tiny-mixtral"].run(
            [
                GenerationRequest(
                    messages=[{"role": "user", "content": "hello"}], max_tokens=8, logprobs=True, top_logprobs=2
                )
            ]
        )
        choice = body["choices"][0]
        assert response.status_code == 200
        assert response.headers["x-request-id"].startswith("req_")
        assert (body["object"], body["model"]) == ("chat.completion", "tiny-mixtral")
        assert choice["message"] == {"role": "assistant", "content": expected.text, "refusal": None}
        assert choice["finish_reason"] == expected.finish_reason
        assert body["usage"] == {
            "prompt_tokens": expected.input_tokens,
            "completion_tokens": expected.output_tokens,
            "total_tokens": expected.input_tokens + expected.output_tokens,
        }
        content = choice["logprobs"]["content"]
        assert [entry["logprob"] for entry in content] == pytest.approx(
            [entry.logprob for entry in expected.logprobs], abs=1e-4
        )
        assert all(len(entry["top_logprobs"]) == 2 for entry in content)
        assert bytes(byte for entry in content for byte in entry["bytes"]).decode(errors="replace") == expected.text

    def test_a_stream_is_the_completion_in_pieces(self, ask):
        whole = ask(max_tokens=40, logprobs=True).json()["choices"][0]
        chunks = events(ask(max_tokens=40, logprobs=True, stream=True))
        deltas = [chunk["choices"][0] for chunk in chunks]
        assert deltas[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(delta["delta"].get("content", "") for delta in deltas) == whole["message"]["content"]
        assert len(deltas) > 5
        entries = [entry for delta in deltas if delta["logprobs"] for entry in delta["logprobs"]["content"]]
        assert [entry["bytes"] for entry in entries] == [entry["bytes"] for entry in whole["logprobs"]["content"]]
        assert [delta["finish_reason"] for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
        assert (deltas[-1]["delta"], deltas[-1]["finish_reason"]) == ({}, whole["finish_reason"])
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert not any("usage" in chunk for chunk in chunks)

    def test_usage_at_the_end_of_a_stream(self, ask):
        expected = ask().json()["usage"]
        chunks = events(ask(stream=True, stream_options={"include_usage": True}))
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == expected
        assert all(chunk["usage"] is None for chunk in chunks[:-1])

    @pytest.mark.parametrize("sampling", [{}, {"temperature": 1.3, "seed": 5}])
    def test_several_choices(self, ask, sampling):
        body = ask(n=3, **sampling).json()
        texts = [choice["message"]["content"] for choice in body["choices"]]
        assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
        assert len(set(texts)) == (3 if sampling else 1)
        chunks = events(ask(n=3, stream=True, stream_options={"include_usage": True}, **sampling))
        streamed = ["", "", ""]
        for chunk in chunks[:-1]:
            choice = chunk["choices"][0]
            streamed[choice["index"]] += choice["delta"].get("content", "")
        assert streamed == texts
        assert chunks[-1]["usage"] == body["usage"]
        single = ask(**sampling).json()
        assert body["usage"]["prompt_tokens"] == single["usage"]["prompt_tokens"]
        assert single["choices"][0]["message"]["content"] == texts[0]

    def test_a_seed_is_reproducible(self, ask):
        texts = {ask(temperature=1.2, seed=9, max_tokens=20).json()["choices"][0]["message"]["content"] for _ in "12"}
        assert len(texts) == 1

    def test_stop_strings(self, ask):
        whole = ask(max_tokens=40).json()["choices"][0]["message"]["content"]
        stop = whole[8:10]
        for response in (ask(max_tokens=40, stop=stop), ask(max_tokens=40, stop=["nowhere at all", stop])):
            choice = response.json()["choices"][0]
            assert choice["message"]["content"] == whole[: whole.index(stop)]
            assert choice["finish_reason"] == "stop"

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_both_names_of_the_token_limit(self, http, name):
        body = {"model": "tiny-mixtral", "messages": [{"role": "user", "content": "hello"}], name: 3}
        answer = http.post("/v1/chat/completions", json=body).json()
        assert answer["usage"]["completion_tokens"] == 3
        assert answer["choices"][0]["finish_reason"] == "length"

    def test_what_asks_for_nothing_is_taken(self, ask):
        plain = ask().json()["choices"]
        neutral = ask(
            tools=[],
            tool_choice="none",
            frequency_penalty=0,
            presence_penalty=0.0,
            logit_bias={},
            response_format={"type": "text"},
            user="somebody",
            metadata={"a": "b"},
            n=None,
            stop=None,
            seed=None,
            stream=False,
        )
        assert neutral.json()["choices"] == plain

    def test_many_at_once(self, running):
        async def all_of_them():
            async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:

                async def one(index):
                    body = {
                        "model": list(running.engines)[index % 2],
                        "messages": [{"role": "user", "content": f"hello {index % 4}"}],
                        "max_tokens": 10,
                    }
                    for _ in range(200):
                        response = await client.post("/v1/chat/completions", json=body)
                        if response.status_code != 429:
                            return response.json()["choices"][0]["message"]["content"]
                        await asyncio.sleep(0.02)
                    return None

                return await asyncio.gather(*map(one, range(32)))

        texts = asyncio.run(all_of_them())
        for index in range(4):
            assert len(set(texts[index::4])) == 1
        assert None not in texts


class TestModelsAndHealth:
    def test_models(self, http):
        listed = http.get("/v1/models").json()
        assert listed["object"] == "list"
        assert [model["id"] for model in listed["data"]] == ["tiny-mixtral", "org/tiny-olmoe"]
        one = http.get("/v1/models/org/tiny-olmoe").json()
        assert one == listed["data"][1]
        assert (one["object"], one["max_model_len"]) == ("model", 256)

    def test_health(self, http):
        assert http.get("/healthz").json() == {"status": "ok"}
        ready = http.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["models"]["tiny-mixtral"]["ready"]

    async def test_not_ready_before_its_engines_run(self, running):
        app = create_app([_NotStarted()])
        transport = httpx.ASGITransport(app)  # runs no lifespan
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/readyz")).status_code == 503

    def test_a_request_id_is_kept(self, http):
        assert http.get("/healthz", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"

    def test_engines_need_names_of_their_own(self, running):
        engine = running.engines["tiny-mixtral"]
        with pytest.raises(ConfigError, match="each with its own name"):
            create_app([engine, engine])
        with pytest.raises(ConfigError, match="at least one"):
            create_app([])


class _NotStarted:
    name = "x"
    alive = False
    context_window = 1

    def stats(self):
        from llmrouter.moe import EngineStats

        return EngineStats(0, 0, 0)


class TestErrors:
    @pytest.mark.parametrize(
        ("body", "param", "code"),
        [
            ({"model": None}, "model", "missing_required_parameter"),
            ({"model": 3}, "model", "invalid_value"),
            ({"messages": None}, "messages", "missing_required_parameter"),
            ({"messages": []}, "messages", "invalid_value"),
            ({"messages": "hello"}, "messages", "invalid_value"),
            ({"messages": [{"role": "user", "content": 4}]}, "messages[0].content", "invalid_value"),
            ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
            ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", None),
            ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", None),
            ({"messages": [{"role": "user"}]}, "messages[0].content", None),
            (
                {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
                "messages[0].content[0]",
                None,
            ),
            ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", None),
            ({"messages": [{"role": "user", "content": "fox " * 2000}]}, "messages", "context_length_exceeded"),
            ({"temperature": "hot"}, "temperature", "invalid_value"),
            ({"temperature": 2.5}, "temperature", None),
            ({"top_p": 0}, "top_p", None),
            ({"max_tokens": 0}, "max_tokens", "invalid_value"),
            ({"max_tokens": 2.5}, "max_tokens", "invalid_value"),
            ({"max_tokens": True}, "max_tokens", "invalid_value"),
            ({"max_completion_tokens": 3}, "max_tokens", None),
            ({"n": 0}, "n", "invalid_value"),
            ({"n": 1000}, "n", "invalid_value"),
            ({"stop": ["a", "b", "c", "d", "e"]}, "stop", None),
            ({"stop": [1]}, "stop", "invalid_value"),
            ({"top_logprobs": 2}, "top_logprobs", None),
            ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", None),
            ({"stream": "yes"}, "stream", "invalid_value"),
            ({"stream_options": {"include_usage": True}}, "stream_options", None),
            ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
            ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
            ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
            ({"no_such_thing": 1}, "no_such_thing", "unknown_parameter"),
        ],
    )
    def test_a_wrong_body_is_400_and_names_the_field(self, ask, body, param, code):
        response = ask(**body)
        error = response.json()["error"]
        assert response.status_code == 400
        assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
        assert error["message"]

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"x"', b'{"model": NaN}', b"\xff\xfe"])
    def test_a_body_that_is_no_json_object_is_400(self, http, content):
        response = http.post("/v1/chat/completions", content=content)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"

    def test_a_huge_body_is_413(self, http):
        response = http.post("/v1/chat/completions", content=b" " * (_chat.MAX_BODY_BYTES + 1))
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"

    def test_unknown_models_are_404(self, ask, http):
        for response in (ask(model="gpt-9"), http.get("/v1/models/gpt-9")):
            error = response.json()["error"]
            assert response.status_code == 404
            assert (error["code"], error["param"]) == ("model_not_found", "model")
            assert "tiny-mixtral" in error["message"]

    def test_other_paths_and_methods_have_the_same_shape(self, http):
        assert http.get("/v1/nothing").json()["error"]["message"]
        assert http.get("/v1/chat/completions").status_code == 405
        assert http.get("/v1/chat/completions").json()["error"]["type"] == "invalid_request_error"

    def test_a_full_queue_is_429_with_retry_after(self, running, ask, wait_until):
        engine = running.engines["tiny-mixtral"]
        with engine._step_lock:  # hold the worker still
            handles = [
                engine.submit(GenerationRequest(prompt="hello", max_tokens=2)) for _ in range(engine.max_queue - 1)
            ]
            response = ask(n=2)  # room for one of the two: both are refused
        error = response.json()["error"]
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert all(handle.wait(60).output_tokens for handle in handles)
        wait_until(lambda: engine.stats().waiting == engine.stats().running == 0)
        assert ask().status_code == 200

    def test_a_failing_model_is_500(self, running, ask, monkeypatch):
        engine = running.engines["tiny-mixtral"]
        with monkeypatch.context() as broken:
            broken.setattr(engine._batch, "decode", lambda tokens: 1 / 0)
            response = ask()
            streamed = ask(stream=True)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "generation_failed"
        assert streamed.status_code == 200
        last = json.loads(streamed.text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["code"] == "generation_failed"
        assert ask().status_code == 200

    def test_a_bug_is_500_in_the_same_shape(self, running, ask, monkeypatch):
        with monkeypatch.context() as broken:
            broken.setattr(_chat.CompletionWriter, "completion", lambda *_: 1 / 0)
            response = ask()
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "server_error"
        assert "division" not in response.text


class TestHangingUp:
    @pytest.fixture
    def engine(self, running, monkeypatch):
        """An engine whose completions never end by themselves."""
        engine = running.engines["tiny-mixtral"]
        monkeypatch.setattr(engine, "_end_tokens", frozenset())
        return engine

    def test_in_the_middle_of_a_stream(self, engine, http, wait_until):
        body = {"model": engine.name, "messages": [{"role": "user", "content": "x"}], "stream": True, "n": 2, **LONG}
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()  # closes the connection when it is garbage
            next(lines)
            wait_until(lambda: engine.stats().running == 2)
        self._assert_cancelled(engine, wait_until)

    def test_while_waiting_for_the_whole_answer(self, running, engine, wait_until):
        body = json.dumps({"model": engine.name, "messages": [{"role": "user", "content": "x"}], "n": 2, **LONG})
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
            wait_until(lambda: engine.stats().running == 2)
        self._assert_cancelled(engine, wait_until)

    def test_in_the_middle_of_the_body(self, running, ask):
        host, port = running.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert ask().status_code == 200

    @staticmethod
    def _assert_cancelled(engine, wait_until):
        generated = engine.stats().generated_tokens
        wait_until(lambda: engine.stats().running == 0)
        assert engine.stats().generated_tokens - generated < 2 * 900 - 200  # far from run to its end
