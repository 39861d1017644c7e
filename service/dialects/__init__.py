"""Other shapes of requests and answers than chat completions, translated both ways."""
