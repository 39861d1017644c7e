"""Verifiers: what judges an answer without a model, by comparing it, by its form, or by running it in a sandbox.

Chosen by name through `llmrouter.registry` (``exact``, ``numeric``, ``regex``, ``json_schema``, ``unit_tests``).
"""

from llmrouter.verifiers._process import VerifierProcess
from llmrouter.verifiers._sandbox import SandboxLimits, SandboxResult, run_in_sandbox, sandbox_problem
from llmrouter.verifiers._verdict import Verdict, Verifier, create_verifier, fenced_blocks, whole_object

__all__ = [
    "SandboxLimits",
    "SandboxResult",
    "Verdict",
    "Verifier",
    "VerifierProcess",
    "create_verifier",
    "fenced_blocks",
    "run_in_sandbox",
    "sandbox_problem",
    "whole_object",
]
