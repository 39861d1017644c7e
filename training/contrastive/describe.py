"""Describe models for CSCR: ask each the same probes, write one descriptor a model.

::

    python -m training.contrastive.describe --kind logit --model a=FOLDER --model b=HUB_ID --data DIR --out DIR
    python -m training.contrastive.describe --kind logit --server c=URL --tokenizer HUB_ID --out DIR
    python -m training.contrastive.describe --kind perplexity --server c=URL --scorer HUB_ID --out DIR

``--out`` holds ``probes.json``, ``tokens.json`` (logit) and a folder a model. Started again with other models it asks
them the probes that are there: that is all a new model needs. ``router.add_described(load_descriptor(folder))`` takes
it in; ``--router cscr:descriptors=DIR/a|DIR/b`` trains on descriptors.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from llmrouter.exceptions import ConfigError
from llmrouter.outcomes import load_table
from llmrouter.routers.descriptors import (
    HubTokenizer,
    LocalModel,
    ModelDescriptor,
    ProbeSet,
    Tokenizer,
    TokenList,
    answers_of_server,
    logit_footprint_of_server,
    perplexity_fingerprint,
    save_descriptor,
)


def probes_of(out: Path, *, given: Path | None, data: Path | None, count: int, seed: int) -> ProbeSet:
    """Return the probes in `out`, or write there those of a file, or those drawn from a train split.

    Raises
    ------
    ConfigError
        If there are none, or the file holds others than `out` does.
    """
    path = out / "probes.json"
    if path.is_file():
        found = ProbeSet.load(path)
        if given is not None and ProbeSet.load(given).id != found.id:
            raise ConfigError(
                f"{given} holds {ProbeSet.load(given).id}, but {path} {found.id}; use another folder", path="--probes"
            )
        return found
    if given is not None:
        found = ProbeSet.load(given)
    elif data is not None:
        found = ProbeSet.drawn(load_table(data).split("train").router_texts(), count=count, seed=seed)
    else:
        raise ConfigError(f"{path} is not there yet; say which probes to write: --probes or --data", path="--probes")
    found.save(path)
    return found


def tokens_of(out: Path, probes: ProbeSet, tokenizer: Tokenizer | None, *, count: int) -> TokenList:
    """Return the list of tokens in `out`, or make it of the probes' most frequent ones and write it there.

    Raises
    ------
    ConfigError
        If there is none and no tokenizer to make it with.
    """
    path = out / "tokens.json"
    if path.is_file():
        return TokenList.load(path)
    if tokenizer is None:
        raise ConfigError(
            f"{path} is not there yet, and a server does not say how it divides text; give the model's tokenizer",
            path="--tokenizer",
        )
    made = TokenList.most_frequent(probes.prompts, tokenizer, count=count)
    made.save(path)
    return made


def describe_local(chosen: argparse.Namespace, name: str, source: str, probes: ProbeSet) -> ModelDescriptor:
    """Describe a model of this machine."""
    model = LocalModel.load(source)
    if chosen.kind == "logit":
        tokens = tokens_of(chosen.out, probes, model, count=chosen.tokens)
        return model.logit_footprint(probes, tokens, model=name, places=chosen.places)
    answers = model.answers(probes.prompts, max_tokens=chosen.answer_tokens)
    return perplexity_fingerprint(probes, answers, _scorer(chosen), model=name, with_prompt=not chosen.alone)


def describe_server(chosen: argparse.Namespace, name: str, url: str, probes: ProbeSet) -> ModelDescriptor:
    """Describe a model behind an OpenAI-compatible API."""
    from llmrouter.pool import OpenAIBackend

    async def measured() -> ModelDescriptor:
        key = os.environ.get(chosen.api_key_env) if chosen.api_key_env else None
        backend = OpenAIBackend(name, model=chosen.upstream or name, base_url=url, api_key=key)
        try:
            if chosen.kind == "logit":
                tokenizer = HubTokenizer.load(chosen.tokenizer) if chosen.tokenizer else None
                tokens = tokens_of(chosen.out, probes, tokenizer, count=chosen.tokens)
                return await logit_footprint_of_server(
                    backend, probes, tokens, model=name, places=chosen.places, tokenizer=tokenizer
                )
            answers = await answers_of_server(backend, probes, model=name, max_tokens=chosen.answer_tokens)
        finally:
            await backend.aclose()
        return perplexity_fingerprint(probes, answers, _scorer(chosen), model=name, with_prompt=not chosen.alone)

    return asyncio.run(measured())


def _scorer(chosen: argparse.Namespace) -> LocalModel:
    if not chosen.scorer:
        raise ConfigError("a perplexity fingerprint needs a language model that scores the answers", path="--scorer")
    return LocalModel.load(chosen.scorer)


def _named(given: str, option: str) -> tuple[str, str]:
    name, separator, source = given.partition("=")
    if not separator or not name or not source:
        raise ConfigError(f"must be NAME=WHERE; got {given!r}", path=option)
    return name, source


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["logit", "perplexity"], required=True)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=SOURCE", help="folder or hub id; repeat")
    parser.add_argument("--server", action="append", default=[], metavar="NAME=URL", help="base URL; repeat")
    parser.add_argument("--upstream", help="the server's name of the model (default: NAME)")
    parser.add_argument("--api-key-env", metavar="VARIABLE", help="environment variable that holds the server's key")
    parser.add_argument("--tokenizer", metavar="SOURCE", help="the server's tokenizer, folder or hub id")
    parser.add_argument("--probes", type=Path, metavar="FILE", help="probes to use, as in another --out")
    parser.add_argument("--data", type=Path, metavar="DIR", help="outcomes whose train prompts are drawn as probes")
    parser.add_argument("--count", type=int, default=192, help="probes to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--tokens", type=int, default=256, help="length of the list of tokens")
    parser.add_argument("--places", type=int, default=10, help="tokens of an answer whose probabilities are read")
    parser.add_argument("--scorer", metavar="SOURCE", help="folder or hub id")
    parser.add_argument("--alone", action="store_true", help="the scorer reads the answer without the probe")
    parser.add_argument("--answer-tokens", type=int, default=256, help="of an answer at most")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    if not chosen.model and not chosen.server:
        parser.error("give at least one --model or --server")
    probes = probes_of(chosen.out, given=chosen.probes, data=chosen.data, count=chosen.count, seed=chosen.seed)
    for option, describe in (("model", describe_local), ("server", describe_server)):
        for given in getattr(chosen, option):
            name, source = _named(given, f"--{option}")
            descriptor = describe(chosen, name, source, probes)
            save_descriptor(chosen.out / name, descriptor)
            print(f"{name}: {descriptor.kind} over {descriptor.probe_set}, {dict(descriptor.provenance)}")


if __name__ == "__main__":
    main()
