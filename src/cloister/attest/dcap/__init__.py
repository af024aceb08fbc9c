"""Intel's evidence: quotes of SGX and TDX, and the collateral that they are verified with (DCAP)."""
