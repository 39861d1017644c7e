"""The layers of experts in a Hugging Face model, each with the router that chooses among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmrouter.exceptions import CheckpointError
from llmrouter.moe.experts._weights import expert_count


@dataclass(frozen=True, slots=True)
class MoeLayer:
    """One layer.

    Attributes
    ----------
    name : str
        Name of the experts module in the model.
    block : torch.nn.Module
        Holds experts and router.
    experts : torch.nn.Module
        The experts, through Hugging Face's experts interface.
    """

    name: str
    block: Any
    experts: Any

    @property
    def count(self) -> int:
        """Number of experts."""
        return expert_count(self.experts)

    def router(self) -> Any:
        """Return the module with one row of weights for each expert, the only one beside the experts.

        Raises
        ------
        CheckpointError
            If there is none, or more than one.
        """
        found = [
            child
            for child in self.block.children()
            if child is not self.experts
            and getattr(getattr(child, "weight", None), "ndim", 0) == 2
            and child.weight.shape[0] == self.count
        ]
        if len(found) != 1:
            raise CheckpointError(f"{self.name}: {len(found)} modules beside it look like its router, not one")
        return found[0]


def moe_layers(model: Any) -> list[MoeLayer]:
    """Return the layers of experts in the model's order.

    Raises
    ------
    CheckpointError
        If there is none whose weights can be read.
    """
    modules = dict(model.named_modules())
    layers = [
        MoeLayer(name, modules[name.rpartition(".")[0]], module)
        for name, module in modules.items()
        if hasattr(module, "is_transposed") and hasattr(module, "has_gate") and hasattr(module, "down_proj")
    ]
    if not layers:
        raise CheckpointError(
            f"{type(model).__name__} is not a mixture-of-experts model that goes through Hugging Face's experts "
            "interface; load it without options on its experts"
        )
    return layers
