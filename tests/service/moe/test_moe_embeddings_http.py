"""POST /v1/embeddings with the official client, in both encodings, and errors that name the field."""

import base64
import socket
import struct

import numpy as np
import openai
import pytest

TEXTS = ["The quick brown fox", "two plus two"]


@pytest.fixture
def client(running):
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def create(client, **values):
    return client.embeddings.create(**{"model": "tiny-mixtral", "input": TEXTS} | values)


def test_both_encodings_are_the_same_vectors(client, http):
    whole = create(client, encoding_format="float")
    packed = create(client)  # the client asks for base64
    assert [entry.index for entry in whole.data] == [0, 1]
    for one, other in zip(whole.data, packed.data, strict=True):
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-7)
        assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-5)
    assert whole.usage.prompt_tokens == whole.usage.total_tokens > 0
    body = {"model": "tiny-mixtral", "input": TEXTS[0], "encoding_format": "base64"}
    raw = base64.b64decode(http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"])
    assert struct.unpack(f"<{len(raw) // 4}f", raw)[0] == pytest.approx(whole.data[0].embedding[0], abs=1e-6)


def test_kinds_have_their_own_lengths(client):
    lengths = {
        kind: len(create(client, extra_body={"moee": kind}).data[0].embedding)
        for kind in ("hidden", "routing", "concat", "sum")
    }
    assert lengths == {"hidden": 32, "routing": 8, "concat": 40, "sum": 40}
    plain = create(client, extra_body={"moee": "sum", "moee_alpha": 0}).data[0].embedding
    assert plain[32:] == [0.0] * 8


def test_tokens_one_text_or_several(running, client):
    ids = running.engines["tiny-mixtral"].vocabulary.encode(TEXTS[0], special_tokens=True)
    by_text = create(client, input=TEXTS[0]).data[0].embedding
    for given in (ids, [ids]):
        [entry] = create(client, input=given).data
        np.testing.assert_allclose(entry.embedding, by_text, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "param", "message"),
    [
        ({"dimensions": 8}, "dimensions", "Leave dimensions out"),
        ({"input": []}, "input", "has 0 texts"),
        ({"input": ["a", ""]}, "input[1]", "is empty"),
        ({"input": "fox " * 3000}, "input[0]", "this model takes 1024"),
        ({"input": [[5000]]}, "input[0]", "this model's tokens are 0 to"),
        ({"encoding_format": "int8"}, "encoding_format", "int8"),
        ({"extra_body": {"moee": "mean"}}, "moee", "one of concat, sum, hidden, routing"),
        ({"extra_body": {"pooling": "mean"}}, "pooling", "unrecognized"),
    ],
)
def test_wrong_requests(client, values, param, message):
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, **values)
    assert message in caught.value.message
    assert caught.value.param == param


def test_an_unknown_model(client):
    with pytest.raises(openai.NotFoundError):
        create(client, model="other")


def test_hanging_up_cancels(running, wait_until):
    engine = running.engines["tiny-mixtral"]
    cancelled = engine.meter.finished["cancelled"]
    body = '{"model": "tiny-mixtral", "input": "x"}'
    host, port = running.url.removeprefix("http://").split(":")
    with engine._step_lock:
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
            wait_until(lambda: len(engine._embeddings) == 1)
        wait_until(lambda: engine._embeddings._jobs[0].cancelled)
    wait_until(lambda: engine.meter.finished["cancelled"] == cancelled + 1)
