"""The result as one self-contained HTML page: no request leaves it, and every text in it is escaped."""

from llmrouter.evaluation._page._assemble import render_page

__all__ = ["render_page"]
