"""Remote attestation: evidence in, claims out, and a verdict for a person.

Pure but for ``attester``, which reads the TEE's devices: bytes, collateral, clock and reference come in.
Needs no torch.
"""
