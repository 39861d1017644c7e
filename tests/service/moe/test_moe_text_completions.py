"""POST /v1/completions: the prompt as it is, OpenAI's older shapes, and the official client."""

import openai
import pytest

from llmrouter.moe import GenerationRequest


@pytest.fixture
def complete(http):
    def post(**body):
        return http.post("/v1/completions", json={"model": "tiny-mixtral", "prompt": "hello", "max_tokens": 8} | body)

    return post


def test_a_completion_is_the_engines(running, complete):
    body = complete(logprobs=2).json()
    request = GenerationRequest(prompt="hello", max_tokens=8, logprobs=True, top_logprobs=2)
    [expected] = running.engines["tiny-mixtral"].run([request])
    [choice] = body["choices"]
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert (choice["text"], choice["finish_reason"]) == (expected.text, expected.finish_reason)
    assert body["usage"]["completion_tokens"] == expected.output_tokens
    scores = choice["logprobs"]
    assert scores["token_logprobs"] == pytest.approx([entry.logprob for entry in expected.logprobs], abs=1e-4)
    assert scores["tokens"] == [entry.text for entry in expected.logprobs]
    assert all(1 <= len(top) <= 2 for top in scores["top_logprobs"])
    assert scores["text_offset"][0] == 0


def test_the_official_client_whole_and_streamed(running):
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        values = {"model": "tiny-mixtral", "prompt": ["The quick"], "max_tokens": 12, "n": 2, "seed": 3}
        whole = client.completions.create(**values, temperature=1.0)
        texts = ["", ""]
        stream = client.completions.create(
            **values, temperature=1.0, stream=True, stream_options={"include_usage": True}
        )
        for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.text
            used = chunk.usage
    assert texts == [choice.text for choice in whole.choices]
    assert used == whole.usage


def test_sixteen_tokens_where_nothing_is_said(http):
    body = http.post("/v1/completions", json={"model": "tiny-mixtral", "prompt": "hello"}).json()
    assert body["usage"]["completion_tokens"] <= 16


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"logprobs": 6}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"messages": []}, "messages"),
        ({"stream_options": {}}, "stream_options"),
        ({"prompt": "x" * 5000}, "prompt"),
    ],
)
def test_bad_requests(complete, change, param):
    response = complete(**change)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
