"""What models look like to a contrastive router (CSCR, arXiv 2508.12491), how that is measured, kept and compared.

Three kinds of descriptor, all vectors over one fixed set of probes:

* ``logit``: mean next-token probabilities of a list of tokens, for models whose logits can be read: `LocalModel` (any
  Hugging Face causal language model) or a server that returns ``top_logprobs`` (`logit_footprint_of_server`);
* ``perplexity``: what a scorer language model makes of the model's answers, for black boxes;
* ``outcome``: what the model gets right near each probe, where there are scored prompts and nothing else.

This package imports no torch; `LocalModel` does when it is loaded.
"""

from llmrouter.routers.descriptors._descriptor import Descriptor, Kind, ModelDescriptor
from llmrouter.routers.descriptors._files import load_descriptor, load_descriptors, save_descriptor
from llmrouter.routers.descriptors._local import HubTokenizer, LocalModel
from llmrouter.routers.descriptors._measured import MeasuredSpace, likeness
from llmrouter.routers.descriptors._outcome import Anchors, OutcomeFingerprint
from llmrouter.routers.descriptors._perplexity import Scorer, answers_of_server, perplexity_fingerprint
from llmrouter.routers.descriptors._probes import ProbeSet, Tokenizer, TokenList
from llmrouter.routers.descriptors._server import logit_footprint_of_server

__all__ = [
    "Anchors",
    "Descriptor",
    "HubTokenizer",
    "Kind",
    "LocalModel",
    "MeasuredSpace",
    "ModelDescriptor",
    "OutcomeFingerprint",
    "ProbeSet",
    "Scorer",
    "TokenList",
    "Tokenizer",
    "answers_of_server",
    "likeness",
    "load_descriptor",
    "load_descriptors",
    "logit_footprint_of_server",
    "perplexity_fingerprint",
    "save_descriptor",
]
