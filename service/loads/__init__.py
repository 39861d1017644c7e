"""Reading what local engines report of their load, so that the router decides by what a token costs at present."""

from service.loads.loads import Loads

__all__ = ["Loads"]
