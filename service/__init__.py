"""The HTTP gateway: FastAPI over the routing engine."""
