"""LLM Bandit: identities, supervised policy, one-step PPO; trained with checkpoints, exported to numpy, compared."""
