"""Limits and budgets of keys, teams and models."""
