"""What is trained, in torch: the response model with variational identities, and the policy with its value network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llmrouter.routers._axes import PrincipalAxes
from llmrouter.routers._llm_bandit_policy import HEADS, NAMES, NUMBERS, PREFERENCE, PreferencePolicy
from llmrouter.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_CURVATURE = 0.15
_FIRST_LOG_SPREAD = -1.5
_FIRST_CORRECTION = 0.1
PROMPT_AXES = 64
"""Principal axes of the embeddings that the policy sees; further ones it would only overfit to."""


@dataclass(frozen=True)
class Coordinates:
    """Embeddings as training sees them.

    Attributes
    ----------
    axes : PrincipalAxes
    scale : array of shape (d,)
        Of the response model's inputs: along it all slopes have about the same curvature.
    unit : float
        Of the policy's inputs.
    """

    axes: PrincipalAxes
    scale: FloatArray
    unit: float

    @classmethod
    def fit(cls, X: FloatArray, *, models: int, penalty: float) -> Coordinates:
        """Decompose the embeddings X (n, d) learned from."""
        axes = PrincipalAxes.fit(X, np.ones(len(X)))
        spread = float(np.sqrt(axes.values[0] / axes.total)) if axes.values[0] > 0 else 1.0
        return cls(axes, 1.0 / np.sqrt(_CURVATURE * models * axes.values + penalty), 2.0 / spread)

    def of_response(self, X: FloatArray) -> FloatArray:
        """Return inputs of the response model, (n, d)."""
        return np.asarray(self.axes.coordinates(X) * self.scale, dtype=np.float32)

    def of_policy(self, X: FloatArray) -> FloatArray:
        """Return inputs of the policy, (n, axes)."""
        return np.asarray(self.axes.coordinates(X)[:, :PROMPT_AXES] * self.unit, dtype=np.float32)


def response_module(dimension: int, models: int, length: int, *, seed: int) -> Module:
    """Return the response model, ``module(inputs, noise) -> (n, m)`` logits.

    Noise (m, q) draws identities; at 0 they are their means.
    """
    import torch

    random = np.random.default_rng([seed, 11])

    class Response(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps = _parameter(random.normal(scale=0.1, size=(dimension, length)))
            self.constant = _parameter(random.normal(scale=0.1, size=length))
            self.difficulty = _parameter(np.zeros(dimension))
            self.level = _parameter(np.zeros(()))
            self.mean = _parameter(random.normal(scale=1.0, size=(models, length)))
            self.log_spread = _parameter(np.full((models, length), _FIRST_LOG_SPREAD))

        def forward(self, inputs: Tensor, noise: Tensor) -> Tensor:
            identity = self.mean + noise * self.log_spread.exp()
            discrimination = inputs @ self.maps + self.constant
            logit: Tensor = discrimination @ identity.T - (inputs @ self.difficulty)[:, None] + self.level
            return logit

        def divergence(self) -> Tensor:
            """Return the divergence of the identities from the standard normal, summed."""
            squares = self.mean**2 + (2.0 * self.log_spread).exp()
            total: Tensor = 0.5 * (squares - 1.0 - 2.0 * self.log_spread).sum()
            return total

    return Response()


def identity_of(module: Any, coordinates: Coordinates, *, penalty: float) -> dict[str, FloatArray]:
    """Return what `LLMBanditRouter.adopt` takes, identities and slopes balanced as its `penalty` has them."""
    root = float(np.sqrt(penalty))
    parts = {name: weight.detach().cpu().numpy().astype(np.float64) for name, weight in module.named_parameters()}
    turned = coordinates.axes.directions * coordinates.scale
    projection, prompt = turned @ parts["maps"] * root, -turned @ parts["difficulty"]
    centre = coordinates.axes.centre
    return {
        "projection": projection,
        "shift": parts["constant"] * root - centre @ projection,
        "prompt": prompt,
        "prompt_shift": np.asarray(parts["level"] - centre @ prompt),
        "vectors": parts["mean"] / root,
    }


@dataclass(frozen=True)
class PolicySize:
    """Widths: tokens, what is made of the prompt, of the preference, and of all three."""

    token: int = 16
    prompt: int = 32
    preference: int = 8
    hidden: int = 64


def policy_module(inputs: int, length: int, size: PolicySize, *, sharpness: float, seed: int) -> Module:
    """Return policy and value network.

    ``module(prompts, identities, numbers, told, utility) -> (logits (n, m), values (n, 2))``, for prompts (n, inputs),
    identities (m, q), numbers (n, m, 3), preference features (n, 2) and utilities (n, m), whose `sharpness` is learned
    from its first value on, or left out where that is 0. The value network sees prompt and candidates,
    not the preference, and values quality and cost apart.
    """
    import torch

    random = np.random.default_rng([seed, 12])

    def dense(rows: int, columns: int) -> Any:
        return _parameter(random.normal(scale=rows**-0.5, size=(rows, columns)))

    width, joined = size.token, size.token + size.prompt + size.preference

    class Policy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token_identity, self.token_numbers = dense(length, width), dense(NUMBERS, width)
            for name in ("query", "key", "value", "mix", "pool_key", "pool_value", "pool_mix"):
                setattr(self, name, dense(width, width))
            for name in ("token_shift", "mix_shift", "pool_mix_shift"):
                setattr(self, name, _parameter(np.zeros(width)))
            self.seed = _parameter(random.normal(scale=1.0, size=width))
            self.prompt, self.prompt_shift = dense(inputs, size.prompt), _parameter(np.zeros(size.prompt))
            self.preference = dense(PREFERENCE, size.preference)
            self.first, self.first_shift = dense(joined, size.hidden), _parameter(np.zeros(size.hidden))
            self.second, self.second_shift = dense(size.hidden, length), _parameter(np.zeros(length))
            if sharpness > 0:  # begins near the rule it is to improve
                self.second.data *= _FIRST_CORRECTION
            self.sharpness = _parameter(np.array([sharpness]))
            self.sharpness.requires_grad_(sharpness > 0)
            self.value_first = dense(width + size.prompt, size.hidden)
            self.value_second, self.value_shift = dense(size.hidden, 2), _parameter(np.zeros(2))

        def forward(
            self, prompts: Tensor, identities: Tensor, numbers: Tensor, told: Tensor, utility: Tensor
        ) -> tuple[Tensor, Tensor]:
            tokens = (identities @ self.token_identity + self.token_shift)[None] + numbers @ self.token_numbers
            seen = tokens + _attention(tokens @ self.query, tokens @ self.key, tokens @ self.value)
            seen = seen + torch.relu(seen @ self.mix + self.mix_shift)
            seeds = self.seed.expand(len(prompts), 1, -1)
            pooled = (seeds + _attention(seeds, seen @ self.pool_key, seen @ self.pool_value))[:, 0]
            pooled = pooled + torch.relu(pooled @ self.pool_mix + self.pool_mix_shift)
            of_prompt = torch.tanh(prompts @ self.prompt + self.prompt_shift)
            both = torch.cat([pooled, of_prompt, told @ self.preference], dim=1)
            h = torch.tanh(both @ self.first + self.first_shift) @ self.second + self.second_shift
            valued = torch.tanh(torch.cat([pooled, of_prompt], dim=1) @ self.value_first)
            logits = h @ identities.T / length**0.5 + self.sharpness * utility
            return logits, valued @ self.value_second + self.value_shift

    return Policy()


def policy_of(module: Any, coordinates: Coordinates) -> PreferencePolicy:
    """Return the numpy policy over embeddings as they are."""
    parts = {name: weight.detach().cpu().numpy().astype(np.float64) for name, weight in module.named_parameters()}
    turned = coordinates.axes.directions[:, :PROMPT_AXES] * coordinates.unit
    prompt = turned @ parts["prompt"]
    changed = {"prompt": prompt, "prompt_shift": parts["prompt_shift"] - coordinates.axes.centre @ prompt}
    return PreferencePolicy.from_arrays({name: (parts | changed)[name] for name in NAMES}, prefix="")


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    n, asked, width = query.shape
    size = width // HEADS

    def parted(rows: Tensor) -> Tensor:
        return rows.reshape(n, -1, HEADS, size).transpose(1, 2)

    scores = parted(query) @ parted(key).transpose(2, 3) / size**0.5
    joined: Tensor = (scores.softmax(dim=-1) @ parted(value)).transpose(1, 2).reshape(n, asked, width)
    return joined


def _parameter(values: FloatArray) -> Any:
    import torch

    return torch.nn.Parameter(torch.tensor(np.asarray(values, dtype=np.float32)))
