"""llmrouter: send each prompt to the model of the pool that gives the wanted quality for the least money."""

__version__ = "0.1.0"
