"""One layer of experts: ours against Hugging Face's implementations."""
