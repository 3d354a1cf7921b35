"""Robustness: real processes that are killed, starved and fed with garbage, under load.

- `server`: our server as ``twistd fleetspeak-server`` in its small set-up, with its database to look into.
- `machine`: clients of the wire protocol that never give up, many in this process.
"""
