"""AMD's evidence: reports of SEV-SNP guests, and the certificates that they are verified with."""
