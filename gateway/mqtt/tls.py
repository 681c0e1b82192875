"""Our side of TLS at a broker: whom we trust and who we are."""

import ssl

from gateway.mqtt.options import BrokerOptions
from gateway.mqtt.trouble import LinkLost
from gateway.network import Unusable, tls_context


def context(options: BrokerOptions) -> ssl.SSLContext | None:
    """None without TLS. Reads small files. Raises LinkLost with the file that cannot be used, and what to try."""
    if not options.address.tls:
        return None
    try:
        return tls_context(options)
    except Unusable as error:
        raise LinkLost(str(error)) from error
