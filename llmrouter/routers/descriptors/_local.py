"""A language model on this machine, as a source of logits and answers and as a scorer of others' answers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from llmrouter.exceptions import CheckpointError, FingerprintError, MissingExtraError
from llmrouter.routers.descriptors._descriptor import ModelDescriptor
from llmrouter.routers.descriptors._probes import ProbeSet, TokenList
from llmrouter.routers.descriptors._server import PLACES, footprint
from llmrouter.types import FloatArray, IntArray

_BATCH = 32
_LONGEST = 1024


class HubTokenizer:
    """A Hugging Face tokenizer, by the bytes of its tokens; needs ``transformers``, no torch.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        See `load`.
    """

    def __init__(self, tokenizer: Any) -> None:
        from llmrouter.moe._vocabulary import Vocabulary

        self.vocabulary = Vocabulary(tokenizer)
        self.bytes = [self.vocabulary.token_bytes(token) for token in range(len(tokenizer))]

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Self:
        """Load the tokenizer of a checkpoint folder or hub id, not its weights.

        Raises
        ------
        MissingExtraError
            If transformers is not installed.
        CheckpointError
            If there is no such tokenizer.
        """
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise MissingExtraError(str(error.name), extra="moe", purpose=f"the tokenizer of {source}") from error
        try:
            return cls(AutoTokenizer.from_pretrained(source))
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{os.fspath(source)!r} has no tokenizer that can be loaded ({error})") from error

    @property
    def tokenizer(self) -> str:
        """Name of the vocabulary: how many tokens, and a hash of the bytes that each id stands for."""
        digest = hashlib.sha256()
        for token in self.bytes:
            digest.update(hashlib.sha256(token).digest())
        return f"vocabulary-{len(self.bytes)}-{digest.hexdigest()[:16]}"

    def split(self, text: str) -> list[bytes]:
        """Return the tokens of a text, each as the bytes that it stands for."""
        return [self.bytes[token] for token in self.vocabulary.encode(text, special_tokens=False)]


class LocalModel:
    """A Hugging Face causal language model (safetensors; code of checkpoints is never run).

    Parameters
    ----------
    model, tokenizer
        Of the library ``transformers``; see `load`.
    name : str
        For messages.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        self.name = name
        self._model = model
        self._tokenizer = tokenizer
        self._tokens = HubTokenizer(tokenizer)
        self._vocabulary = self._tokens.vocabulary
        ends = getattr(model.generation_config, "eos_token_id", None)
        self._ends = {int(end) for end in np.atleast_1d(ends)} if ends is not None else set()
        if tokenizer.eos_token_id is not None:
            self._ends.add(int(tokenizer.eos_token_id))

    @classmethod
    def load(cls, source: str | os.PathLike[str], *, device: str = "auto") -> Self:
        """Load a model in single precision.

        Parameters
        ----------
        source : str or path
            A folder or a hub id.
        device : str
            A torch device; "auto" is the first GPU, else the CPU.

        Raises
        ------
        MissingExtraError
            If torch or transformers are not installed.
        CheckpointError
            If there is no such model, or it is no causal language model.
        """
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise MissingExtraError(
                str(error.name), extra="moe", purpose=f"describing models by {os.fspath(source)}"
            ) from error
        place = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{os.fspath(source)!r} cannot be loaded as a causal language model ({error}); give a folder with "
                "config.json, safetensors and tokenizer files, or a hub id"
            ) from error
        return cls(loaded.to(place).eval(), tokenizer, name=Path(os.fspath(source)).name)

    # Names

    @property
    def tokenizer(self) -> str:
        """Name of the vocabulary, see `HubTokenizer`."""
        return self._tokens.tokenizer

    @property
    def weights(self) -> str:
        """Name of the model and a hash of its weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
        return f"{self.name}-{digest.hexdigest()[:16]}"

    def split(self, text: str) -> list[bytes]:
        """Return the tokens of a text, each as the bytes that it stands for."""
        return self._tokens.split(text)

    # Asking

    def logit_footprint(
        self, probes: ProbeSet, tokens: TokenList, *, model: str = "", places: int = PLACES
    ) -> ModelDescriptor:
        """Describe the model by the mean probability of each listed token over its greedy answers to the probes.

        Mean over the first `places` tokens of an answer (the one that ends it left out, as no API returns its
        probabilities), then over the probes: CSCR's ``d(h)_k = 1/(N T) sum_i sum_t p_h(v_k | x_i, y_<t)``.

        Parameters
        ----------
        probes : ProbeSet
            What to ask.
        tokens : TokenList
            Whose probabilities to read.
        model : str
            Name in the pool (default: that of the checkpoint).
        places : int
            T.

        Raises
        ------
        FingerprintError
            If the list is of another tokenizer.
        DataError
            If the model answers none of the probes.
        """
        if tokens.tokenizer != self.tokenizer:
            raise FingerprintError(
                f"the list of tokens is from the tokenizer {tokens.tokenizer!r}, but {model or self.name!r} has "
                f"{self.tokenizer!r}; make the list with its tokenizer, or describe the models by perplexity"
            )
        place_of = {token: place for place, token in reversed([*enumerate(self._tokens.bytes)])}
        ids = np.array([place_of[token] for token in tokens.tokens])
        read = self._answers(probes.prompts, places, ids)
        rows = [answer.probabilities.mean(axis=0) for answer in read if answer.ids]
        return footprint(rows, probes, tokens, model=model or self.name, places=places, about={"weights": self.weights})

    def answers(self, prompts: Sequence[str], *, max_tokens: int) -> list[str]:
        """Return the greedy answers to prompts, of at most so many tokens."""
        none = np.empty(0, dtype=np.int64)
        return [self._vocabulary.decode(answer.ids) for answer in self._answers(prompts, max_tokens, none)]

    def _answers(self, prompts: Sequence[str], most: int, wanted: IntArray) -> Iterator[_Answer]:
        """Yield for each prompt the tokens of its answer and the probabilities (T, K) of the wanted ids there."""
        import torch

        encoded = [self._asked(prompt) for prompt in prompts]
        for begin in range(0, len(encoded), _BATCH):
            batch = encoded[begin : begin + _BATCH]
            longest = max(map(len, batch))
            padding = self._tokenizer.pad_token_id
            padding = next(iter(self._ends), 0) if padding is None else padding
            ids = torch.tensor([[padding] * (longest - len(row)) + row for row in batch], device=self._model.device)
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch], device=ids.device)
            with torch.inference_mode():
                out = self._model.generate(
                    input_ids=ids, attention_mask=mask, do_sample=False, num_beams=1, max_new_tokens=most,
                    pad_token_id=padding, return_dict_in_generate=True, output_logits=bool(len(wanted)),
                    temperature=None, top_p=None, top_k=None,
                )  # fmt: skip
            written = out.sequences[:, longest:].tolist()
            chances = np.empty((len(batch), len(written[0]), 0))
            if len(wanted):
                columns = torch.tensor(wanted, device=ids.device)
                chances = np.stack(
                    [place.float().softmax(dim=-1)[:, columns].cpu().numpy() for place in out.logits], axis=1
                )
            for row, chance in zip(written, chances, strict=True):
                length = next((place for place, token in enumerate(row) if token in self._ends), len(row))
                yield _Answer(row[:length], chance[:length].astype(np.float64))

    # Scoring

    def surprise(self, prompts: Sequence[str], answers: Sequence[str], *, with_prompt: bool) -> FloatArray:
        """Return the mean negative log-likelihood of each answer's tokens (n,), in nats; NaN for an empty answer.

        Without the prompt an answer follows the token that begins texts (or ends them, where none begins them).
        """
        import torch

        found = np.full(len(answers), np.nan)
        start = self._tokenizer.bos_token_id
        alone = [next(iter(self._ends), 0) if start is None else int(start)]
        for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            own = self._vocabulary.encode(answer, special_tokens=False)[:_LONGEST] if answer.strip() else []
            if not own:
                continue
            before = self._asked(prompt)[-_LONGEST:] if with_prompt else alone
            ids = torch.tensor([before + own], device=self._model.device)
            with torch.inference_mode():
                logits = self._model(input_ids=ids).logits[0, len(before) - 1 : -1].float()
            chosen = logits.log_softmax(dim=-1).gather(1, ids[0, len(before) :, None])
            found[place] = -float(chosen.mean())
        return found

    def _asked(self, prompt: str) -> list[int]:
        if self._vocabulary.has_chat_template:
            rendered = self._vocabulary.render([{"role": "user", "content": prompt}])
            return self._vocabulary.encode(rendered, special_tokens=False)
        return self._vocabulary.encode(prompt, special_tokens=True)


@dataclass(frozen=True)
class _Answer:
    ids: list[int]
    probabilities: FloatArray
