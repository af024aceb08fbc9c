"""``python -m cloister.enclave``: the aggregator of a closed charter, and nothing else in its process.

It does what ``cloister aggregator serve`` does for such a charter, without the libraries of the command line: what
runs in a TEE is what somebody has to read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from cloister.enclave.setup import aggregator_of, check_signatures, instance_of, read_charter
from cloister.errors import CloisterError
from cloister.net.log_lines import start_log
from cloister.net.signals import end_on_signals


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM or Ctrl-C. Exits with 1 where it cannot be done, and with 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    start_log()
    try:
        charter = read_charter(options.charter)
        instance = instance_of(charter, tee=options.tee, name=options.name)
        if options.signatures is not None:
            check_signatures(charter, folder=options.signatures)
        service = aggregator_of(charter, instance=instance, listen=options.listen, collateral=options.collateral)
        end_on_signals(service.stop)
        service.serve(
            ready=lambda: print(f"ready aggregator at {service.address} {service.fingerprint}", flush=True)  # noqa: T201
        )
    except CloisterError as fault:
        raise SystemExit(f"cloister: {fault}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cloister.enclave", description="Run an aggregator in a TEE.")
    parser.add_argument("--charter", type=Path, required=True, help="charter.cbor, from: cloister charter encode")
    parser.add_argument(
        "--signatures", type=Path, help="a folder of the owners' signatures, *.sig, to be checked first"
    )
    parser.add_argument("--tee", choices=("auto", "simulated"), default="auto", help="simulated proves nothing")
    parser.add_argument("--name", help="which of the charter's addresses this is, where there are several")
    parser.add_argument("--listen", help="where to listen, host:port; by default everywhere, at its address's port")
    parser.add_argument("--collateral", type=Path, help="collateral for this machine, for the ledger")
    return parser


if __name__ == "__main__":
    main()
