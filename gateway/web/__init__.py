"""How this gateway listens for HTTP: one way for the status page and for the readings that are posted to it.

`listen` and `somebody` hold an address without the web libraries, `Token` says who may; `server` answers, within limits
that no client can stretch, and is imported only when the first client is there: with uvicorn it takes some MB and, on a
Pi, most of a second.
"""

from gateway.web.door import address_of, listen, somebody, written
from gateway.web.token import RECIPE, Token, weakness

__all__ = ["RECIPE", "Token", "address_of", "listen", "somebody", "weakness", "written"]
