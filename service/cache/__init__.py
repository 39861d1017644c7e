"""Answers kept for the same question."""
