"""Routes in the user's words: a name and a description -> the models that answer there (Arch-Router, 2506.16655).

A chooser picks the route of a conversation: a model of the pool (`ModelChooser`), the similarity of texts
(`EmbeddingChooser`) or a classifier (`ClassifierChooser`). What is on no route is left to the ordinary policy.
`RoutesPolicy` then ranks the models as the route says.
"""

from llmrouter.routes._choosers import Chooser, other, with_picks
from llmrouter.routes._classifier import CLASSIFIER_THRESHOLD, ClassifierChooser
from llmrouter.routes._conversation import Conversation, conversation_of, within
from llmrouter.routes._embedding import THRESHOLD, EmbeddingChooser
from llmrouter.routes._engine import BatchEngine, RoutedEngine
from llmrouter.routes._labelled import read_labelled
from llmrouter.routes._model import WINDOW_TOKENS, ModelChooser
from llmrouter.routes._policy import RoutesPolicy
from llmrouter.routes._prompt import INSTRUCTIONS, parse_route
from llmrouter.routes._route import Place, Route, check_routes, checked_routes

__all__ = [
    "CLASSIFIER_THRESHOLD",
    "INSTRUCTIONS",
    "THRESHOLD",
    "WINDOW_TOKENS",
    "BatchEngine",
    "Chooser",
    "ClassifierChooser",
    "Conversation",
    "EmbeddingChooser",
    "ModelChooser",
    "Place",
    "Route",
    "RoutedEngine",
    "RoutesPolicy",
    "check_routes",
    "checked_routes",
    "conversation_of",
    "other",
    "parse_route",
    "read_labelled",
    "with_picks",
    "within",
]
