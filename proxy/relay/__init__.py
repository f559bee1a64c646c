"""From an upstream's answer to the client's: `Relay` and what it is made of. Pure: no I/O anywhere in here.

Imports `protocol`, `storage`.

splicer     bytes of the upstream's stream to bytes of the client's
relay       one turn's answer: lifecycle, errors, outcome
reading     what an upstream's event says, or that it says nothing
transcript  the upstream's events about items, completed and placed
placement   which item an event means, and the ids it goes by
pairing     which streamed item an item of the final output is
output      the items as the client is told of them, and what they come to
draft       one item, as far as it has come
lane        where the next piece goes, if nothing else comes
memo        what a lane's pieces look like as bytes
text        one text of an item, piece by piece
item        items as the specification wants them
frames      numbering and framing
replay      a stored response told again
"""

from proxy.relay.relay import MalformedEvent, Outcome, Ownership, Relay
from proxy.relay.splicer import Splicer

__all__ = ["MalformedEvent", "Outcome", "Ownership", "Relay", "Splicer"]
