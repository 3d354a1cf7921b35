"""The released upstream programs and ours, as real processes on 127.0.0.1, in every combination.

What the tests stand on, beside `tests.programs`:

- `peer`: the released Go programs and upstream's Python connectors, fetched by ``tools/get-peer``.
- `mariadb`: a private database server for the upstream server; started once, a fresh database per server.
- `fleet`: a deployment (certificates, configuration files) with servers, clients and operators of either kind.
- `scripts/`: what people write themselves with the connectors: the hello daemon, the operator's side.
"""
