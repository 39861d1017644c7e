"""The benchmark of the server: what it counts, and how its page compares."""

import asyncio

import pytest
from aiohttp import web

from benchmarks.moe import serving


def row(server, number, clients, tokens, **more):
    found = {"server": server, "round": number, "clients": clients, "tokens": tokens, "seconds": 2.0, "answers": 4}
    return {**found, "p50_ms": 10.0, "cpu_s": 1.0, "rss_mib": 100.0, **more}


def test_ratios_are_taken_within_a_round():
    rows = [row(serving.OURS, 0, 8, 400), row(serving.THEIRS, 0, 8, 100)]
    rows += [row(serving.OURS, 1, 8, 100), row(serving.THEIRS, 1, 8, 50)]
    rows += [row(serving.OURS, 2, 8, 100), row(serving.THEIRS, 2, 8, 50)]
    assert serving.ratio_of(rows, 8) == 2.0
    text = serving.page({"rows": rows, "model": "m", "same_answers": 0.95})
    assert "| 8 | `service.moe` | 50 | 2.0 | 10 | 10.00 | 100 | 2.00 |" in text
    assert "| 8 | `transformers serve` | 25 |" in text
    assert "95% of 20 answers" in text


def test_a_load_counts_what_the_server_counts_and_waits_for_the_last_answer():
    at_once, most = 0, 0

    async def answer(request):
        nonlocal at_once, most
        asked = await request.json()
        assert (asked["temperature"], asked["model"]) == (0, "m")
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1
        return web.json_response({"choices": [{"message": {"content": "yes"}}], "usage": {"completion_tokens": 3}})

    async def run():
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        server = serving.Server("x", f"http://127.0.0.1:{port}/v1/chat/completions", "m", None)
        found = await serving._load(server, ["a", "b"], 4, 0.1)
        await runner.cleanup()
        return found

    found = asyncio.run(run())
    assert most == 4
    assert found["tokens"] == 3 * found["answers"] >= 12
    assert found["seconds"] >= 0.1
    assert found["p50_ms"] == pytest.approx(20, abs=200)
