"""The relay's hands: sockets, bodies, neighbours. What to believe, allow and refuse is decided in `appliance.exchange`."""
