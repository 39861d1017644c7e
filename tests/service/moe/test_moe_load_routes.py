"""What the server tells about its load: /metrics for Prometheus, /v1/load for a router."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmrouter.moe import MachinePrice, load_engine
from service.moe import create_app


def samples(http):
    text = http.get("/metrics").text
    return {
        (sample.name.removeprefix("llmrouter_moe_"), *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_requests_tokens_and_latencies(http, ask, wait_until):
    before, model = samples(http), ("model", "tiny-mixtral")
    usage = ask(max_tokens=12, temperature=0).json()["usage"]
    assert usage["completion_tokens"] == 12
    # Times are counted after the step that brought the last token.
    wait_until(lambda: samples(http)["batch_size_sum", model] - before.get(("batch_size_sum", model), 0) >= 11)
    after = samples(http)

    def gain(*key):
        return after[key] - before.get(key, 0)

    assert gain("tokens_total", ("kind", "output"), model) == usage["completion_tokens"]
    assert gain("tokens_total", ("kind", "input"), model) == usage["prompt_tokens"]
    assert gain("requests_total", ("how", "length"), model) + gain("requests_total", ("how", "stop"), model) == 1
    assert gain("time_to_first_token_seconds_count", model) == 1
    assert gain("inter_token_seconds_count", model) == usage["completion_tokens"] - 1
    assert gain("batch_size_sum", model) == usage["completion_tokens"] - 1
    assert after["waiting", model] == 0
    assert after["batch_limit", model] == 8
    assert ("running", ("model", "org/tiny-olmoe")) in after
    assert any(key[0] == "expert_max_violation" for key in after)
    assert any(key[0] == "experts_a_token" and value == 2 for key, value in after.items())
    assert gain("busy_seconds_total", model) > 0
    assert after["company", model] >= 1


def test_load_tells_the_cost_of_one_more_token(http, ask):
    ask(max_tokens=12)
    body = http.get("/v1/load").json()
    assert [entry["id"] for entry in body["data"]] == ["tiny-mixtral", "org/tiny-olmoe"]
    entry = body["data"][0]
    assert entry["seconds_per_output_token"] > 0
    step, output = entry["step"], entry["marginal"]["output"]["machine_s"]
    assert entry["company"] >= 1
    assert output == pytest.approx(step["row_s"] + step["fixed_s"] / entry["company"])
    assert output > 0
    assert entry["average"]["output"]["machine_s"] > 0
    assert entry["marginal"]["output"]["usd_per_million"] == 0  # nobody said what this machine costs
    assert all(len(layer["tokens"]) == 4 for layer in entry["experts"].values())
    assert all(layer["experts_a_token"] == 2 for layer in entry["experts"].values())


def test_an_idle_server_with_a_price(tiny_models):
    from starlette.testclient import TestClient

    price = MachinePrice(usd_per_hour=1.5, busy_watts=200)
    engine = load_engine(tiny_models["tiny-mixtral"], "m", price=price)
    with TestClient(create_app([engine])) as client:
        [entry] = client.get("/v1/load").json()["data"]
        assert (entry["marginal"]["output"], entry["seconds_per_output_token"]) == (None, None)
        assert entry["machine"] == {"usd_per_hour": 1.5, "busy_watts": 200, "idle_watts": 0, "usd_per_kwh": 0}
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 6}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        output = client.get("/v1/load").json()["data"][0]["marginal"]["output"]
        assert output["usd_per_million"] == pytest.approx(output["machine_s"] * 1.5 / 3600 * 1e6)
        assert output["joules"] == pytest.approx(output["machine_s"] * 200)
