"""What each pocket model is: architecture, diet, length of training, price.

All sizes were chosen so that a checkpoint stays under 4 MB in fp16 and trains in under 20 minutes on two cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.pocket.tasks import NUMBER_TASKS, WORD_TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONTEXT_WINDOW = 2048
USD_PER_MILLION_ACTIVE = 1.0
"""Input price, in USD per million tokens, of a model with a million active parameters; output costs four times that."""
OUTPUT_RATIO = 4.0

EFFORT: Mapping[str, float] = {
    "add": 2.5, "subtract": 3.0, "multiply": 1.8, "sort_numbers": 1.5, "next_number": 1.5, "count_items": 1.2,
    "maximum": 1.2, "minimum": 1.2, "larger": 1.0, "smaller": 1.0, "parity": 0.6, "convert_units": 1.0,
    "reverse": 2.0, "upper_case": 0.7, "lower_case": 0.7, "title_case": 1.0, "spell": 0.8, "first_letter": 0.5,
    "last_letter": 0.7, "count_letters": 1.0, "sort_letters": 1.8, "sort_words": 1.5, "capital": 0.8, "plural": 1.0,
    "opposite": 0.8,
}  # fmt: skip
"""How often each task is practised, relative to the others of its domain: hard ones more."""

EASY_TASKS = (
    "upper_case", "lower_case", "title_case", "spell", "first_letter", "last_letter", "parity", "larger", "smaller",
    "plural", "count_letters",
)  # fmt: skip


def diet(tasks: tuple[str, ...]) -> dict[str, float]:
    """Return the training frequencies of the given tasks."""
    return {name: EFFORT[name] for name in tasks}


@dataclass(frozen=True, slots=True)
class Specification:
    """One pocket model.

    Attributes
    ----------
    model_type
        Hugging Face name of a standard class: "mixtral", "qwen3_moe" or "olmoe".
    shape
        Settings of that class's configuration.
    weights
        Relative frequency of the tasks in training.
    final_levels
        Relative frequency of levels 1 to 3 at the end of training; it starts with easy ones.
    steps, batch_size, learning_rate, seed
        The length of training is a number of steps, never a clock, so that it can be repeated.
    """

    name: str
    description: str
    model_type: str
    shape: Mapping[str, Any]
    weights: Mapping[str, float]
    steps: int
    final_levels: tuple[float, float, float] = (1.0, 1.2, 1.4)
    batch_size: int = 96
    learning_rate: float = 6e-3
    seed: int = 7

    @property
    def effort(self) -> float:
        """Rough cost of training, for starting the longest first."""
        width, layers = self.shape["hidden_size"], self.shape["num_hidden_layers"]
        return float(self.steps * self.batch_size * layers * width * width)

    def configuration(self, vocabulary_size: int, **tokens: int) -> PreTrainedConfig:
        """Return the model's configuration (``tokens``: ids of the special tokens)."""
        from transformers import AutoConfig

        return AutoConfig.for_model(
            self.model_type,
            **self.shape,
            **tokens,
            bos_token_id=None,
            vocab_size=vocabulary_size,
            max_position_embeddings=CONTEXT_WINDOW,
            tie_word_embeddings=True,
            initializer_range=0.03,
        )


SPECIFICATIONS: dict[str, Specification] = {
    specification.name: specification
    for specification in (
        Specification(
            name="pocket-mini",
            description="Cheapest; weak at all but the easiest tasks (casing, spelling, first letter, even or odd).",
            model_type="olmoe",
            shape={
                "hidden_size": 56, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
                "intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 1,
            },
            weights=diet(EASY_TASKS),
            steps=1500,
            final_levels=(1.4, 1.2, 1.0),
        ),
        Specification(
            name="pocket-numbers",
            description="Strong on numbers: sums, comparing, sorting, sequences, units, counting. Cannot do words.",
            model_type="qwen3_moe",
            shape={
                "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
                "head_dim": 32, "moe_intermediate_size": 48, "intermediate_size": 48, "num_experts": 8,
                "num_experts_per_tok": 2, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
            },
            weights=diet(NUMBER_TASKS),
            steps=3000,
        ),
        Specification(
            name="pocket-words",
            description="Strong on words: reversing, casing, spelling, sorting, capitals, plurals. Cannot do numbers.",
            model_type="olmoe",
            shape={
                "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
                "intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 2,
            },
            weights=diet(WORD_TASKS),
            steps=2000,
        ),
        Specification(
            name="pocket-max",
            description="Dearest and good at most things: numbers and words.",
            model_type="mixtral",
            shape={
                "hidden_size": 160, "num_hidden_layers": 4, "num_attention_heads": 5, "num_key_value_heads": 1,
                "intermediate_size": 136, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None,
            },
            weights=diet(NUMBER_TASKS + WORD_TASKS),
            steps=2400,
            learning_rate=5e-3,
        ),
    )
}  # fmt: skip


def price(active_parameters: int) -> dict[str, float]:
    """Return USD per million tokens, in and out, for a model with so many active parameters."""
    dollars = USD_PER_MILLION_ACTIVE * active_parameters / 1e6
    return {"input": round(dollars, 4), "output": round(OUTPUT_RATIO * dollars, 4)}


def count_parameters(names_and_sizes: Mapping[str, int], *, experts: int, chosen: int) -> tuple[int, int]:
    """Return (all, active) parameters: of the experts, only the chosen share works on a token."""
    total = sum(names_and_sizes.values())
    in_experts = sum(size for name, size in names_and_sizes.items() if ".experts." in name)
    return total, total - in_experts + in_experts * chosen // experts
