"""Virtual keys: who asks, and what they may."""
