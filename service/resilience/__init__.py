"""What happens when a model of the pool fails or is slow."""
