"""From an upstream's answer to the client's: `Relay` and what it is made of. Pure: no I/O anywhere in here.

Imports `protocol`, `storage`.

relay       one turn's answer: lifecycle, errors, outcome
transcript  item events, completed; what the output comes to
placement   which item an event is about, and the ids it goes by
draft       what has been said so far, part by part
item        items as the specification wants them
frames      numbering and framing
replay      a stored response told again
"""

from proxy.relay.relay import MalformedEvent, Outcome, Ownership, Relay

__all__ = ["MalformedEvent", "Outcome", "Ownership", "Relay"]
