"""The things that all parties of a study verify alike: jobs, records, the chain that they form, and cohorts."""
