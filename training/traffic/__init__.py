"""Encoders fitted to the user's own traffic, and their token tables."""
