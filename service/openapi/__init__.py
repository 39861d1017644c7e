"""The OpenAPI document, written by hand: bodies are parsed from raw bytes, so the framework knows nothing of them.

`tests/service/test_openapi_schemathesis.py` holds it against running gateways.
"""

from service.openapi._document import describing, document

__all__ = ["describing", "document"]
