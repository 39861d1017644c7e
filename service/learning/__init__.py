"""The learning loop in the gateway: signals, exploration, trial routers, online adaptation."""
