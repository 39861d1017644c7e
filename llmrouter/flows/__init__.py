"""Flows: which model to call next, given what the earlier ones answered; decided here, called by a driver.

A flow is a generator factory. `start` returns a generator that yields the `Step` to take, is sent the `Answer` that
came back (or has the `BackendError` thrown in), and returns the `Final` with the answer to keep. `drive` and
`drive_async` do the calling; replay drives the same decisions over tables of outcomes.
"""

from llmrouter.flows._answer_fit import fit_answer_model
from llmrouter.flows._answers import AnswerModel, revealed_features
from llmrouter.flows._base import Answer, Final, Flow, FlowRun, LearnedFlow, Step
from llmrouter.flows._cascade import Cascade
from llmrouter.flows._cascade_routing import CascadeRouting
from llmrouter.flows._drive import drive, drive_async
from llmrouter.flows._judge import good_quality, judge_verdicts
from llmrouter.flows._table import FlowTable, FlowTrace

__all__ = [
    "Answer",
    "AnswerModel",
    "Cascade",
    "CascadeRouting",
    "Final",
    "Flow",
    "FlowRun",
    "FlowTable",
    "FlowTrace",
    "LearnedFlow",
    "Step",
    "drive",
    "drive_async",
    "fit_answer_model",
    "good_quality",
    "judge_verdicts",
    "revealed_features",
]
