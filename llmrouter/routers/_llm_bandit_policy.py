"""The preference-conditioned policy of LLM Bandit in numpy: a model for a prompt, candidates and a weight of cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray

HEADS = 4
NUMBERS = 3
"""What a candidate's token holds beside its identity: cost, logarithm of the cost, logit of the expected quality."""
PREFERENCE = 2
_LEAST_COST = 1e-4
_LARGEST_LOGIT = 6.0
_RETRAIN = "export the policy again with python -m training.bandit"


@dataclass(frozen=True)
class PreferencePolicy:
    """``pi(k | x, C, w) = softmax_k I_k . h(x, C, w) / sqrt(q) + sharpness u_k``, a set transformer over candidates C.

    Each candidate is a token: its identity I_k (q,), its cost and what the response model expects of it on the prompt.
    One block of self-attention lets the tokens see each other, a learned seed pools them, and two layers turn the pool,
    the prompt and the weight of cost into h. The order of the candidates does not matter, nor does their number.
    ``u_k`` is the expected quality less w times the cost, over ``1 + w * median cost``; the paper has no such term,
    which is a sharpness of 0.

    Attributes
    ----------
    token_identity, token_numbers, token_shift : arrays of shape (q, D), (3, D) and (D,)
    query, key, value, mix, mix_shift : arrays of shape (D, D), the last (D,)
        Of the self-attention.
    seed, pool_key, pool_value, pool_mix, pool_mix_shift : arrays of shape (D,), (D, D), (D, D), (D, D) and (D,)
        Of the pooling.
    prompt, prompt_shift : arrays of shape (d, P) and (P,)
        From the embedding as the encoder gives it.
    preference : array of shape (2, R)
    first, first_shift, second, second_shift : arrays of shape (D + P + R, H), (H,), (H, q) and (q,)
    sharpness : array of shape (1,)
    """

    token_identity: FloatArray
    token_numbers: FloatArray
    token_shift: FloatArray
    query: FloatArray
    key: FloatArray
    value: FloatArray
    mix: FloatArray
    mix_shift: FloatArray
    seed: FloatArray
    pool_key: FloatArray
    pool_value: FloatArray
    pool_mix: FloatArray
    pool_mix_shift: FloatArray
    prompt: FloatArray
    prompt_shift: FloatArray
    preference: FloatArray
    first: FloatArray
    first_shift: FloatArray
    second: FloatArray
    second_shift: FloatArray
    sharpness: FloatArray

    def logits(
        self, X: FloatArray, identities: FloatArray, expected: FloatArray, costs: FloatArray, weights: FloatArray
    ) -> FloatArray:
        """Return the logits of the candidates at every weight, (w, n, m).

        Parameters
        ----------
        X : array of shape (n, d)
            Embeddings.
        identities : array of shape (m, q)
        expected : array of shape (n, m)
            Expected quality, in [0, 1].
        costs : array of shape (m,)
            In units of the dearest model's mean cost.
        weights : array of shape (w,)
            Quality given up for one such unit, >= 0.
        """
        context = self._context(X, identities, expected, costs)
        known = context @ self.first[: context.shape[1]] + self.first_shift
        told = preference_features(weights) @ self.preference @ self.first[context.shape[1] :]
        h = np.tanh(known[None] + told[:, None]) @ self.second + self.second_shift
        learned = h @ identities.T / np.sqrt(identities.shape[1])
        return np.asarray(learned + self.sharpness * utilities(expected, costs, weights))

    def _context(self, X: FloatArray, identities: FloatArray, expected: FloatArray, costs: FloatArray) -> FloatArray:
        """Return what is seen of candidates and prompt, (n, D + P), whatever the weight."""
        fixed = identities @ self.token_identity + self.token_shift
        tokens = fixed[None] + numbers(expected, costs) @ self.token_numbers
        seen = tokens + _attention(tokens @ self.query, tokens @ self.key, tokens @ self.value)
        seen = seen + np.maximum(seen @ self.mix + self.mix_shift, 0.0)
        seeds = np.broadcast_to(self.seed, (len(X), 1, len(self.seed)))
        pooled = (seeds + _attention(seeds, seen @ self.pool_key, seen @ self.pool_value))[:, 0]
        pooled = pooled + np.maximum(pooled @ self.pool_mix + self.pool_mix_shift, 0.0)
        of_prompt = np.tanh(X.astype(np.float64) @ self.prompt + self.prompt_shift)
        return np.concatenate([pooled, of_prompt], axis=1)

    @property
    def _told(self) -> int:
        return int(self.preference.shape[1])

    def arrays(self, prefix: str = "policy.") -> dict[str, FloatArray]:
        """Return the arrays of the state."""
        return {prefix + name: getattr(self, name) for name in NAMES}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, FloatArray], prefix: str = "policy.") -> Self:
        """Rebuild from `arrays()`, in float64.

        Raises
        ------
        DataError
            If one is missing.
        """
        missing = [name for name in NAMES if prefix + name not in arrays]
        if missing:
            raise DataError(f"the policy lacks {', '.join(missing)}; {_RETRAIN}")
        return cls(**{name: np.asarray(arrays[prefix + name], dtype=np.float64) for name in NAMES})

    def checked(self, *, dimension: int, length: int) -> Self:
        """Return the policy if its arrays fit each other, embeddings (d,) and identities (q,).

        Raises
        ------
        DataError
            Naming the array, its shape and the one it should have.
        """
        width, hidden = len(self.seed), len(self.first_shift)
        of_prompt = len(self.prompt_shift)
        if self.preference.ndim != 2 or width % HEADS:
            raise DataError(
                f"preference must be ({PREFERENCE}, R) and the seed's length a multiple of {HEADS}; got "
                f"{self.preference.shape} and {width}; {_RETRAIN}"
            )
        square, row = (width, width), (width,)
        wanted = {
            "token_identity": (length, width), "token_numbers": (NUMBERS, width), "token_shift": row,
            "query": square, "key": square, "value": square, "mix": square, "mix_shift": row,
            "pool_key": square, "pool_value": square, "pool_mix": square, "pool_mix_shift": row,
            "prompt": (dimension, of_prompt), "preference": (PREFERENCE, self._told),
            "first": (width + of_prompt + self._told, hidden),
            "second": (hidden, length), "second_shift": (length,), "sharpness": (1,),
        }  # fmt: skip
        for name, shape in wanted.items():
            found = getattr(self, name)
            if found.shape != shape:
                raise DataError(
                    f"policy.{name} has the shape {found.shape}, expected {shape} for embeddings of {dimension} "
                    f"dimensions and identities of length {length}; use the encoder and identities it was trained with"
                )
        for name in NAMES:
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(f"policy.{name} has NaN or infinite values; train again with a lower learning rate")
        return self


NAMES = tuple(field.name for field in fields(PreferencePolicy))


def numbers(expected: FloatArray, costs: FloatArray) -> FloatArray:
    """Return what the tokens hold beside identities, (n, m, 3), of expected quality (n, m) and costs (m,)."""
    chance = np.clip(expected, 1e-6, 1.0 - 1e-6)
    logit = np.clip(np.log(chance / (1.0 - chance)), -_LARGEST_LOGIT, _LARGEST_LOGIT)
    of_cost = np.stack([costs, np.log10(costs + _LEAST_COST) / 2.0], axis=1)
    return np.concatenate([np.broadcast_to(of_cost, (*expected.shape, 2)), logit[:, :, None]], axis=2)


def utilities(expected: FloatArray, costs: FloatArray, weights: FloatArray) -> FloatArray:
    """Return expected quality (n, m) less weights (w,) times costs (m,), on one scale for all weights, (w, n, m)."""
    unit = 1.0 + weights * np.median(costs)
    return np.asarray((expected[None] - (weights[:, None] * costs)[:, None]) / unit[:, None, None])


def preference_features(weights: FloatArray) -> FloatArray:
    """Return what the policy is told of weights of cost (n,), shape (n, 2)."""
    return np.stack([weights / (1.0 + weights), np.log10(weights + 1e-3) / 3.0], axis=1)


def _attention(query: FloatArray, key: FloatArray, value: FloatArray) -> FloatArray:
    """Return multi-head attention of (n, a, D) over (n, b, D)."""
    n, asked, width = query.shape
    size = width // HEADS

    def parted(rows: FloatArray) -> FloatArray:
        return np.asarray(rows.reshape(n, -1, HEADS, size).transpose(0, 2, 1, 3))

    scores = parted(query) @ parted(key).transpose(0, 1, 3, 2) / np.sqrt(size)
    share = softmax(scores)
    return np.asarray((share @ parted(value)).transpose(0, 2, 1, 3).reshape(n, asked, width))


def softmax(logits: FloatArray) -> FloatArray:
    """Return the softmax over the last axis; 0 where a logit is -inf."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
