"""The table that routers are trained and judged on: n prompts by m models, NaN where nothing was observed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmrouter.exceptions import DataError
from llmrouter.types import FloatArray, ModelCard, Price


@dataclass(frozen=True)
class OutcomeTable:
    """Outcomes of m models on n prompts.

    A benchmark (every cell observed) and a log (one model observed per prompt) are both such a table.

    Attributes
    ----------
    prompt_ids : tuple of str, length n
        Unique.
    models : tuple of str, length m
        Unique; the columns of every (n, m) array.
    texts : tuple of (str or None), length n
        What the router reads; None where the source has no text.
    tasks : tuple of (str or None), length n
        Benchmark or task label; never shown to a router.
    splits : tuple of str, length n
        ``train`` or ``test``.
    quality : array of shape (n, m)
        In [0, 1]; NaN = not observed.
    cost_usd : array of shape (n, m)
        US dollars for the call; NaN = unknown.
    input_tokens, output_tokens : array of shape (n, m)
        NaN = unknown.
    propensity : array of shape (n, m)
        Probability with which the logging policy chose the model for the prompt; 1 where all were run; NaN where
        not observed, and where the log does not say.
    prices : tuple of (Price or None), length m
        List prices in US dollars per million tokens.
    name : str
        Of the data set.
    weight : array of shape (n, m) or None
        How much each observed quality counts in fitting (e.g. the number of judgements behind it); NaN where not
        observed. None = 1 everywhere.
    embeddings : array of shape (n, d) or None
        What the router read where the source has no text but its embedding, in single precision; NaN rows elsewhere.
        Not saved with the table.
    """

    prompt_ids: tuple[str, ...]
    models: tuple[str, ...]
    texts: tuple[str | None, ...]
    tasks: tuple[str | None, ...]
    splits: tuple[str, ...]
    quality: FloatArray
    cost_usd: FloatArray
    input_tokens: FloatArray
    output_tokens: FloatArray
    propensity: FloatArray
    prices: tuple[Price | None, ...]
    name: str = ""
    weight: FloatArray | None = None
    embeddings: FloatArray | None = None

    def __post_init__(self) -> None:
        n, m = len(self.prompt_ids), len(self.models)
        for field_name in ("texts", "tasks", "splits"):
            if len(getattr(self, field_name)) != n:
                raise DataError(f"{field_name} has {len(getattr(self, field_name))} entries for {n} prompts")
        if len(self.prices) != m:
            raise DataError(f"prices has {len(self.prices)} entries for {m} models")
        for field_name in ("quality", "cost_usd", "input_tokens", "output_tokens", "propensity"):
            if getattr(self, field_name).shape != (n, m):
                raise DataError(f"{field_name} must be ({n}, {m}); got {getattr(self, field_name).shape}")
        if self.weight is not None and self.weight.shape != (n, m):
            raise DataError(f"weight must be ({n}, {m}) or None; got {self.weight.shape}")
        if self.embeddings is not None and (self.embeddings.ndim != 2 or len(self.embeddings) != n):
            raise DataError(f"embeddings must have a row for each of {n} prompts; got shape {self.embeddings.shape}")
        if len(set(self.prompt_ids)) != n:
            raise DataError("prompt ids are not unique")
        if len(set(self.models)) != m:
            raise DataError("model names are not unique")
        finite = self.quality[np.isfinite(self.quality)]
        if finite.size and (finite.min() < 0 or finite.max() > 1):
            raise DataError(f"quality must lie in [0, 1]; found [{finite.min():g}, {finite.max():g}]")
        if np.isinf(self.quality).any() or np.isinf(self.cost_usd).any():
            raise DataError("infinite quality or cost; use NaN for what was not observed")
        if (self.cost_usd[np.isfinite(self.cost_usd)] < 0).any():
            raise DataError("cost_usd has negative values")

    def __len__(self) -> int:
        """Return the number of prompts n."""
        return len(self.prompt_ids)

    @property
    def observed(self) -> npt.NDArray[np.bool_]:
        """Where a quality was observed, shape (n, m)."""
        return np.isfinite(self.quality)

    def select(self, rows: npt.NDArray[Any] | Sequence[int]) -> OutcomeTable:
        """Return the table of some rows, given as indices or as a boolean mask of length n."""
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64)
        pick = index.tolist()
        return dataclasses.replace(
            self,
            prompt_ids=tuple(self.prompt_ids[i] for i in pick),
            texts=tuple(self.texts[i] for i in pick),
            tasks=tuple(self.tasks[i] for i in pick),
            splits=tuple(self.splits[i] for i in pick),
            quality=self.quality[index],
            cost_usd=self.cost_usd[index],
            input_tokens=self.input_tokens[index],
            output_tokens=self.output_tokens[index],
            propensity=self.propensity[index],
            weight=None if self.weight is None else self.weight[index],
            embeddings=None if self.embeddings is None else self.embeddings[index],
        )

    def select_models(self, names: Sequence[str]) -> OutcomeTable:
        """Return the table of some models, in the order of `names`.

        Raises
        ------
        DataError
            If a name is not a column.
        """
        unknown = [name for name in names if name not in self.models]
        if unknown:
            raise DataError(f"unknown model(s) {', '.join(unknown)}; the table has {', '.join(self.models)}")
        columns = np.asarray([self.models.index(name) for name in names], dtype=np.int64)
        return dataclasses.replace(
            self,
            models=tuple(names),
            prices=tuple(self.prices[j] for j in columns.tolist()),
            quality=self.quality[:, columns],
            cost_usd=self.cost_usd[:, columns],
            input_tokens=self.input_tokens[:, columns],
            output_tokens=self.output_tokens[:, columns],
            propensity=self.propensity[:, columns],
            weight=None if self.weight is None else self.weight[:, columns],
        )

    def split(self, name: str) -> OutcomeTable:
        """Return the rows of one split.

        Raises
        ------
        DataError
            If no row belongs to it.
        """
        rows = np.asarray([split == name for split in self.splits], dtype=bool)
        if not rows.any():
            raise DataError(
                f"{self.name or 'the table'} has no rows in split {name!r}; it has {sorted(set(self.splits))}; "
                "import data that hold both, or assign prompts to it"
            )
        return self.select(rows)

    def router_texts(self) -> list[str]:
        """Return the texts a router reads, n of them.

        Raises
        ------
        DataError
            If a prompt has no text.
        """
        missing = [i for i, text in enumerate(self.texts) if text is None]
        if missing:
            raise DataError(
                f"{self.name or 'the table'}: {len(missing)} prompts have no text (first: "
                f"{self.prompt_ids[missing[0]]}); a router that reads prompts cannot be used on them"
            )
        return [text for text in self.texts if text is not None]

    def encoded(self, dimension: int, encode: Callable[[Sequence[str]], FloatArray]) -> FloatArray:
        """Return what a router reads of each prompt, shape (n, d): its text encoded, or the embedding in its place.

        Parameters
        ----------
        dimension : int
            The encoder's d.
        encode : callable
            Texts -> array (texts, d).

        Raises
        ------
        DataError
            If the embeddings are of another encoder, as far as their dimension tells, or a prompt has neither.
        """
        if self.embeddings is None:
            return encode(self.router_texts())
        if self.embeddings.shape[1] != dimension:
            raise DataError(
                f"{self.name or 'the table'} holds embeddings of dimension {self.embeddings.shape[1]}, the encoder "
                f"makes {dimension}: train with the encoder that served when they were logged"
            )
        with_text = [row for row, text in enumerate(self.texts) if text is not None]
        X = np.array(self.embeddings, dtype=np.float32)
        if with_text:
            X[with_text] = encode([self.texts[row] or "" for row in with_text])
        missing = np.flatnonzero(np.isnan(X).any(axis=1))
        if missing.size:
            raise DataError(
                f"{self.name or 'the table'}: {missing.size} prompts have neither text nor embedding (first: "
                f"{self.prompt_ids[int(missing[0])]}); leave them out, or log prompts as text or embedding"
            )
        return X

    def cards(self) -> tuple[ModelCard, ...]:
        """Return a model card for each column; a model without a list price gets price 0."""
        return tuple(
            ModelCard(name, price or Price(0.0, 0.0)) for name, price in zip(self.models, self.prices, strict=True)
        )
